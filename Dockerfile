# Waxwing in a container.
#
#   docker build -t waxwing .
#   docker run -p 8080:8080 waxwing                                    prints the URL with its key
#
#   docker build -t waxwing-cuda --build-arg DEVICE=cuda .             for NVIDIA GPUs (driver 580 or newer)
#   docker run --gpus all -p 8080:8080 waxwing-cuda
#
# Stages: chef (toolchain) → planner (dependency recipe) → builder → the slim image.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${RUST_IMAGE} AS chef
RUN cargo install cargo-chef --version 0.1.78 --locked
WORKDIR /src

FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS builder
COPY --from=planner /src/recipe.json recipe.json
# Dependencies alone: this layer is rebuilt only when Cargo.lock changes.
RUN cargo chef cook --release --locked --package waxwing-server --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package waxwing-server --bin waxwing \
 && mkdir -p /image/usr/local/bin /image/usr/local/lib \
 && cp target/release/waxwing /image/usr/local/bin/ \
 && strip --strip-debug /image/usr/local/bin/waxwing
# With DEVICE=cuda also waxwing-cuda and the libraries that it loads; `waxwing` hands over to it where a GPU works.
ARG DEVICE=cpu
ARG CUDA_COMPUTE_CAP=90
RUN if [ "$DEVICE" = cuda ]; then set -e; \
      apt-get update; apt-get install -y --no-install-recommends g++ python3-venv; \
      cuda/toolkit /opt/cuda; \
      CUDA_TOOLKIT=/opt/cuda CUDA_COMPUTE_CAP="$CUDA_COMPUTE_CAP" cuda/build; \
      cp target/cuda/release/waxwing-cuda /image/usr/local/bin/; \
      strip --strip-debug /image/usr/local/bin/waxwing-cuda; \
      cd /opt/cuda/venv/lib/python3*/site-packages/nvidia/cu13/lib; \
      cp -L libcudart.so.* libcublas.so.* libcublasLt.so.* libcurand.so.* libnvrtc.so.* libnvrtc-builtins.so.* /image/usr/local/lib/; \
    elif [ "$DEVICE" != cpu ]; then echo "DEVICE: expected cpu or cuda, found $DEVICE" >&2; exit 1; fi

FROM ${RUNTIME_IMAGE}
COPY --from=builder /image/ /
# No shell, no home, no name needed: the numeric user works on every runtime, read-only root included.
USER 65532:65532
EXPOSE 8080
# The NVIDIA variables ask the container runtime for the driver's libraries; without a GPU they mean nothing.
ENV WAXWING_HOST=0.0.0.0 LD_LIBRARY_PATH=/usr/local/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# `docker stop` sends SIGTERM and waits 10 s; the server gives every session its last words in that time.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["waxwing", "health"]
ENTRYPOINT ["waxwing"]
CMD ["serve"]
