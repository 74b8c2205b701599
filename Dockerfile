# The main job on the built-in data, on a CPU. Not built yet: no Docker daemon was at hand.
#     docker build -t semtok . && docker run --rm -v "$PWD/runs:/semtok/runs" semtok
FROM python:3.11-slim

RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /semtok
COPY . .
# PyTorch from its own index, as the default one for Linux brings several GB for GPUs.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1 OMP_NUM_THREADS=2
RUN make install
CMD ["make", "demo"]
