# Two images from one file: `app`, which every process of the site runs in (docker-compose.yml says which does what), and
# `proxy`, nginx with the static files of the same build.

FROM python:3.13-slim AS app
ENV PYTHONUNBUFFERED=1 DEBUG=0 VAR_DIR=/srv/signalbox/var DJANGO_SETTINGS_MODULE=project.settings
WORKDIR /srv/signalbox
RUN useradd --system --uid 10001 --home-dir /srv/signalbox signalbox
COPY requirements.txt .
RUN pip install --no-cache-dir --no-input --disable-pip-version-check --prefer-binary -r requirements.txt
COPY manage.py .
COPY project project
COPY realtime realtime
COPY notifications notifications
# The two values are for this one command, which needs settings but keeps no secret.
RUN SECRET_KEY=unused ALLOWED_HOSTS=unused python manage.py collectstatic --noinput --verbosity 0 \
    && python -m compileall -q manage.py project realtime notifications
# Owns nothing there: a process that is broken into cannot change the program.
USER signalbox
EXPOSE 8000
CMD ["python", "-m", "realtime.web", "project.asgi:application", "--host", "0.0.0.0"]

FROM nginx:1.28-alpine AS proxy
COPY deploy/nginx.conf /etc/nginx/nginx.conf
COPY --from=app /srv/signalbox/var/static /srv/static

# What `docker build .` makes when it is not told.
FROM app
