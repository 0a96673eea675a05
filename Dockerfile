# The pipeline on a CPU: docker build -t vdt . && docker run --rm -v vdt:/data vdt run --env walker2d-medium-v2
FROM python:3.11-slim

# PyTorch's index of CPU wheels, given here, makes the image gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 VDT_HOME=/data

# The packages first: code that changes does not install them again.
WORKDIR /opt/vdt
COPY pyproject.toml constraints.txt setup.py README.md LICENSE ./
RUN mkdir vdt params && touch vdt/__init__.py && python -m pip install -c constraints.txt -e .

COPY vdt vdt
COPY params params
COPY flows flows

# Metaflow wants a user with a name. /data holds data, checkpoints, tracking store and reports.
RUN useradd --create-home vdt && install --directory --owner=vdt /data
USER vdt
VOLUME /data
WORKDIR /data
ENTRYPOINT ["python", "/opt/vdt/flows/vdt_flow.py"]
CMD ["--help"]
