# purify for CPUs; for NVIDIA GPUs with CUDA 12: --build-arg EXTRAS=cuda12
#
#   docker build -t purify .
#   mkdir -p runs
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/workspace/runs" purify run --config quickstart --workdir runs/quickstart
#
# The jax wheels of the extras bring CUDA's libraries; the host brings the driver (docker run --gpus all).
FROM python:3.12-slim

ARG EXTRAS=""

# Pinned packages, as the tests run with.
COPY third_party/constraints.txt /tmp/constraints.txt
WORKDIR /opt/purify
COPY setup.py pyproject.toml README.md LICENSE ./
COPY configs configs
COPY purify purify
RUN pip install --no-cache-dir -c /tmp/constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && rm -rf /opt/purify/build /opt/purify/*.egg-info \
    && useradd --create-home --uid 1000 purify \
    && install -d -m 777 /workspace /workspace/runs

USER 1000
# For caches of whoever runs it.
ENV HOME=/workspace
WORKDIR /workspace
ENTRYPOINT ["purify"]
CMD ["--help"]
