"""
Settings of the Signalbox project: development by default, production by environment.

With DEBUG on (the default) only loopback host names are served, so a deployment that forgot `DEBUG=0` shows nothing to
the world. With DEBUG off, SECRET_KEY and ALLOWED_HOSTS must be set. REDIS_URL and DATABASE_URL replace the embedded
engines. docs/reference/settings.md lists every variable.
"""

import sys
import warnings
from pathlib import Path

import django
import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static

from realtime.embedded.url import EmbeddedUrl

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# Everything that a running site writes when no engine is given: database, Valkey's files, logs.
VAR_DIR = Path(env.str("VAR_DIR", default=str(BASE_DIR / "var"))).absolute()

DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env.str("SECRET_KEY", default="development only, never served beyond loopback" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY is not set: with DEBUG=0 give the site a long random one in its environment")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"] if DEBUG else [])
if not ALLOWED_HOSTS:
    raise ImproperlyConfigured("ALLOWED_HOSTS is not set: with DEBUG=0 name the hosts of the site, separated by commas")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
FORCE_SCRIPT_NAME = env.str("FORCE_SCRIPT_NAME", default="") or None

# Django sends a Content-Security-Policy from 6.0 on.
HAS_CSP = django.VERSION >= (6, 0)
# Django has the Tasks framework from 6.0 on. Before, its backport django-tasks must be installed.
HAS_TASKS = django.VERSION >= (6, 0)

INSTALLED_APPS = [
    # First: `manage.py runserver` then speaks ASGI, WebSocket included. No other command needs it, and importing
    # Twisted would cost each of them half a second.
    *(["daphne"] if "runserver" in sys.argv[1:2] else []),
    "unfold.apps.BasicAppConfig",  # its templates must be found before Django's; the site is ours
    "project.admin.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *([] if HAS_TASKS else ["django_tasks"]),
    "channels",
    "realtime",
    "notifications",
    "project.demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    *(["django.middleware.csp.ContentSecurityPolicyMiddleware"] if HAS_CSP else []),
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                *(["django.template.context_processors.csp"] if HAS_CSP else []),
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Engines ------------------------------------------------------------------------------------------------------------

REDIS_URL = env.str("REDIS_URL", default="") or str(EmbeddedUrl(directory=VAR_DIR))

if env.str("DATABASE_URL", default=""):
    with warnings.catch_warnings():
        # For a URL with an unknown scheme, django-environ only warns.
        warnings.simplefilter("ignore")
        DATABASES = {"default": env.db_url("DATABASE_URL")}
    if not DATABASES["default"].get("ENGINE"):
        # The URL may contain a password, so the error does not show it.
        raise ImproperlyConfigured(
            "DATABASE_URL is not a database URL: give postgres://user:password@host:port/name, or leave it out for "
            "SQLite"
        )
    DATABASES["default"].setdefault("CONN_MAX_AGE", 60)
    DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)
else:
    VAR_DIR.mkdir(parents=True, exist_ok=True)  # SQLite does not make the directory of its file
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": VAR_DIR / "db.sqlite3",
            "OPTIONS": {
                # A writer waits for another up to this long, and takes its lock at BEGIN: no "database is locked".
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                # The writer that fills the log's 8000th page (32 MiB) moves all to the database and waits for the disk,
                # some 10 ms: at the default of 1000 that is more than one notification of a hundred.
                "init_command": (
                    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;"
                    " PRAGMA wal_autocheckpoint=8000;"
                ),
            },
        }
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer"}}

# The two apps -------------------------------------------------------------------------------------------------------

REALTIME = {
    "REDIS_URL": REDIS_URL,
    "ALLOWED_ORIGINS": env.list("ALLOWED_ORIGINS", default=[]),
    "ON_READ": "notifications.services.mark_read",
    "STATISTICS": env.bool("STATISTICS", default=True),
}
NOTIFICATIONS: dict[str, object] = {"BASE_URL": env.str("BASE_URL", default="")}

# The background tasks of `manage.py run_task_worker`.
TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}}

# The demo -----------------------------------------------------------------------------------------------------------

# How many vehicles the switch of the live map moves.
DEMO_VEHICLES = env.int("DEMO_VEHICLES", default=20_000)

# People -------------------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "shop"
if not DEBUG:
    AUTH_PASSWORD_VALIDATORS = [
        {"NAME": f"django.contrib.auth.password_validation.{name}"}
        for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
    ]

STATIC_URL = env.str("STATIC_URL", default="static/")
STATIC_ROOT = VAR_DIR / "static"

# Safety -------------------------------------------------------------------------------------------------------------

SECURE_CSP = {
    "default-src": ["'self'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    # 'self' covers ws:// and wss:// of the same origin in every current browser.
    "connect-src": ["'self'"],
    "object-src": ["'none'"],
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
}
X_FRAME_OPTIONS = "DENY"
if not DEBUG:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=3600)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_SUBDOMAINS", default=False)

# The admin's looks ---------------------------------------------------------------------------------------------------

UNFOLD = {
    "SITE_TITLE": "Signalbox",
    "SITE_HEADER": "Signalbox",
    "SITE_SUBHEADER": "Notifications",
    "SITE_ICON": lambda request: static("demo/favicon.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("demo/favicon.svg")},
    ],
    "SIDEBAR": {"navigation": "project.admin.navigation"},
    "STYLES": [lambda request: static("notifications/admin_theme.css")],
    "SCRIPTS": [
        lambda request: static("notifications/admin.js"),
        lambda request: static("notifications/unfold_sidebar.js"),
        lambda request: static("notifications/select_names.js"),
    ],
}

# Where the demo's sinks write: a directory or a URL, such as s3://bucket/games.
GAMES_URL = env.str("GAMES_URL", default=str(VAR_DIR / "games"))
# When a worker of these sinks dies, others take over its records after this time.
GAMES_LEASE_SECONDS = env.float("GAMES_LEASE_SECONDS", default=30.0)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname:<7} {name}: {message}", "style": "{"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line"},
        # Appends records to the Redis Stream `logs`, which manage.py run_log_sink reads.
        "pipeline": {"class": "realtime.logs.RedisStreamHandler", "spill_directory": VAR_DIR / "spilled-logs"},
    },
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        # Without Django's own handlers, which would say everything a second time.
        "django": {"handlers": []},
        # The demo's games: thousands of records, too many for the console.
        "project.demo.games": {"handlers": ["pipeline"], "level": "INFO", "propagate": False},
    },
}
