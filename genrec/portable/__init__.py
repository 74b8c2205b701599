"""A generator without torch: its networks as ONNX, its catalogue as arrays, its search in NumPy."""
