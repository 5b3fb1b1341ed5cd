# The project in a container. Written where there was no docker: this has not been built yet.
#   docker build -t bert-qa . && docker run -it --name bert-qa bert-qa
#   docker cp bert-qa:/home/reader/bert-qa/models/bert-qa-int8 .

# What scripts/setup.sh and the Makefile need, and a user; .devcontainer/ stops here.
FROM python:3.11-slim-trixie AS tools
# No compiler: every pinned package has a wheel.
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
# Not root, and 1000, the first user of most machines: to whom belongs what is written into a mounted folder.
RUN useradd --create-home --uid 1000 --shell /bin/bash reader
USER reader
# Where DVC keeps, and unpickles, a cache for the machine: a folder that nobody else can write (SECURITY.md).
ENV DVC_SITE_CACHE_DIR=/home/reader/.cache/dvc-site PYTHONUNBUFFERED=1
# The checkout's folder is made here, because WORKDIR would make it root's.
RUN mkdir -p -m 700 "$DVC_SITE_CACHE_DIR" && mkdir /home/reader/bert-qa

FROM tools AS project
WORKDIR /home/reader/bert-qa
# All of the checkout, with .git: DVC works in a git repository.
COPY --chown=reader:reader . .
# An index with CPU builds of torch, if you name one; PyPI's own build brings the CUDA libraries.
ARG PIP_EXTRA_INDEX_URL=
# pip's cache is BuildKit's and in no layer: after an edit the next build downloads nothing again.
RUN --mount=type=cache,target=/home/reader/.cache/pip,uid=1000,gid=1000 make setup
ENV PATH=/home/reader/bert-qa/.venv/bin:$PATH
# Runs all stages, without network: their outputs are not in git, and so not in the image.
CMD ["make", "repro"]
