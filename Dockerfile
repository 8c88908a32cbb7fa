FROM python:3.11-slim-bookworm AS build
# pip's own settings choose the index and with it the build of torch (CPU, CUDA)
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH
ARG EXTRAS="torch"
WORKDIR /app
# The dependencies alone, and the package as a link to /app: a change of the code does not install torch again.
# Tests, headers and build files of the dependencies stay behind; torch does not start without its torch_shm_manager.
COPY pyproject.toml ./
RUN python -m venv --without-pip /opt/venv \
 && mkdir service models && touch README.md LICENSE \
 && pip --python /opt/venv/bin/python install --no-cache-dir "${TORCH:-torch==2.13.0}" -e ".[$EXTRAS]" \
 && cd /opt/venv/lib/python3.11/site-packages \
 && rm -rf torch/include torch/share/cmake torch/test \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find . -type d -name tests -prune -exec rm -rf {} +
COPY service service
COPY models models
# bytecode is made here: a read-only container cannot keep any
RUN python -m compileall -q service models \
 && chmod -R a+rX . && mv models/store /store

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="lstm-serve" \
      org.opencontainers.image.description="A REST inference microservice for recurrent sequence classifiers" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    LSTMSERVE_HOST=0.0.0.0 \
    LSTMSERVE_PORT=8000
COPY --from=build /opt/venv /opt/venv
COPY --from=build /store models/store
COPY --from=build /app/models models
COPY --from=build /app/service service
# the official image has no bytecode of the standard library; this import writes what the service uses of it
RUN python -c "import service.__main__ as main; main.choose('cpu', 1)"
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client and not urllib: a proxy in the environment must not be asked
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, sys; \
server = http.client.HTTPConnection('127.0.0.1', int(os.environ['LSTMSERVE_PORT']), timeout=4); \
server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
