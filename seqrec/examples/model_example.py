"""Ask the model in this folder: python example.py ITEM ITEM ... (the oldest first).

pip install semtok
"""

import sys
from pathlib import Path

import seqrec

if __name__ == "__main__":
    model = seqrec.load(Path(__file__).parent)
    history = sys.argv[1:] or model.items["item_id"][:3].to_list()
    print(model.recommend(histories=[history], k=10))
