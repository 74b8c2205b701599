"""Files as their publishers ship them, turned into one table of events and one of items.

CSV, TSV, Parquet and JSON lines with named columns; RecBole's atomic files; Amazon reviews of 2014, 2018 and 2023;
MovieLens; the text form of S3-Rec; sequences by user as LETTER and LC-Rec ship them; and what
``datasets.load_dataset`` opens. Large files are read block by block and only the columns that are needed are kept.
Nothing is filtered or sorted here, nothing that is read is executed, and what is lost or guessed is counted in
``Notes``.
"""

from recbase.data.readers.formats import FORMATS, read, read_all
from recbase.data.readers.items import read_items
from recbase.data.tables.raw import Notes, RawData, as_table

__all__ = ["FORMATS", "Notes", "RawData", "as_table", "read", "read_all", "read_items"]
