"""Of `startproject`, what an API needs; PEER is `drf` (as the books have it) or `tuned` (no middleware, bytes from Redis)."""
import os

SECRET_KEY = "not used for anything"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = f"shop.{os.environ['PEER']}"
WSGI_APPLICATION = "shop.wsgi.application"
USE_TZ = True
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "rest_framework", "shop"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
] if os.environ["PEER"] == "drf" else []
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "postgres",
        "NAME": "shop",
        "USER": "postgres",
        # Sessions are kept, and set as the app sets its own.
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "options": "-c random_page_cost=1.1 -c statement_timeout=5s -c lock_timeout=2s",
            "server_side_binding": True,
            "prepare_threshold": 5,
        },
    }
}
REDIS_URL = os.environ.get("REDIS_URL")
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
if REDIS_URL:
    CACHES["default"] = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
CACHED_SECONDS = 60
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}
LOGGING_CONFIG = None
