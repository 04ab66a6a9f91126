# The API, the background worker and the mocks in one image; the command says which (see docker-compose.yml).

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
RUN python -m venv /opt/booking
WORKDIR /src
COPY pyproject.toml requirements.txt LICENSE ./
COPY service service
COPY lua lua
# The lock only constrains: the embedded servers in it are for `booking up`, a container is given real ones.
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/booking/bin/pip install --constraint requirements.txt .

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/booking --shell /usr/sbin/nologin booking
COPY --from=build /opt/booking /opt/booking
COPY deploy/healthcheck.py /opt/booking/healthcheck.py
ENV PATH=/opt/booking/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=3000 \
    DATA_DIR=/var/lib/booking/data
USER 10001
WORKDIR /var/lib/booking
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=6 \
    CMD ["sh", "-c", "exec python /opt/booking/healthcheck.py http://127.0.0.1:$PORT/readyz"]
CMD ["booking", "serve"]
