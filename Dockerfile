# Waxwing in a container.
#
#   docker build -t waxwing .
#   docker run -p 8080:8080 waxwing                        prints the URL with its key
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
RUN cargo build --release --locked --package waxwing-server \
 && strip --strip-debug target/release/waxwing

FROM ${RUNTIME_IMAGE}
COPY --from=builder /src/target/release/waxwing /usr/local/bin/waxwing
# No shell, no home, no name needed: the numeric user works on every runtime, read-only root included.
USER 65532:65532
EXPOSE 8080
ENV WAXWING_HOST=0.0.0.0
# `docker stop` sends SIGTERM and waits 10 s; the server gives every session its last words in that time.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["waxwing", "health"]
ENTRYPOINT ["waxwing"]
CMD ["serve"]
