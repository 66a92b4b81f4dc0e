"""A whole Django project in one file: one table, one counter, one health path."""
import os
import sys

import dj_database_url
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": dj_database_url.parse(os.environ["DATABASE_URL"])},
)
django.setup()


def migrate():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS visits (id bigserial PRIMARY KEY)")


def visits(_request):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO visits DEFAULT VALUES RETURNING id")
        return HttpResponse(f"{cursor.fetchone()[0]} visits")


def healthz(_request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok")


def key(_request):
    return HttpResponse(f"{len(settings.SECRET_KEY)} characters")


urlpatterns = [path("api/visits", visits), path("api/key", key), path("healthz", healthz)]
application = get_wsgi_application()

if __name__ == "__main__" and sys.argv[1:] == ["migrate"]:
    migrate()
