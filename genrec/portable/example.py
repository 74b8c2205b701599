"""Ask the generator in this folder: python example.py ITEM ITEM ... (the oldest first). Needs no torch.

pip install semtok onnxruntime
"""

import sys
from pathlib import Path

from genrec import OnnxGenerator

if __name__ == "__main__":
    model = OnnxGenerator(Path(__file__).parent)
    history = sys.argv[1:] or model.item_ids[:3]
    print(f"after {', '.join(history)}:")
    for item, score in model.recommend([history], k=10)[0]:
        print(f"{score:9.3f}  {item}")
