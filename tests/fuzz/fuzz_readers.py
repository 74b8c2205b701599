"""Coverage-guided fuzzing of the readers with atheris: ``python fuzz_readers.py FORMAT [options of libFuzzer]``.

``make fuzz`` runs it over every format. An input that breaks a reader is written to the current folder as
``crash-...``; mend the reader and make the input a test.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["recbase"]):
    from reader_oracle import HEADERS, SUFFIXES, check


def main() -> None:
    """Fuzz one format."""
    formats = ", ".join(SUFFIXES)
    if len(sys.argv) < 2 or sys.argv[1] not in SUFFIXES:
        raise SystemExit(f"usage: fuzz_readers.py FORMAT [options of libFuzzer]; the formats are {formats}")
    format = sys.argv.pop(1)
    # In memory where there is such a place: every input is a file.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-readers-", dir=place))

    def one_input(data: bytes) -> None:
        # Every second input has a right header, so that what comes after it is reached.
        header = HEADERS.get(format, b"") if data[:1] < b"\x80" else b""
        check(format, header + data[1:], folder)

    try:
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
