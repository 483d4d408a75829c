# One image for migrate, producer, consumer, worker and the command with all that it offers. It contains no database
# and no Redis.

FROM python:3.13.11-slim-bookworm AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.8
WORKDIR /app
# Dependencies first, so that their layer stays cached when the code changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra services --extra arrow --extra plot --no-install-project
COPY README.md LICENSE ./
COPY schema schema
COPY src src
RUN uv sync --locked --no-dev --extra services --extra arrow --extra plot --no-editable

FROM python:3.13.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --no-create-home kraken
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY producers producers
COPY consumers consumers
COPY jobs jobs
# Matplotlib keeps its list of fonts there; the user has no home of its own.
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
USER kraken
CMD ["kraken-history", "--help"]
