"""The app's own tables: its migrations made them."""
from django.db import models


class Product(models.Model):
    sku = models.TextField()
    name = models.TextField()
    description = models.TextField()
    brand = models.TextField()
    price_cents = models.BigIntegerField()
    currency = models.TextField()

    class Meta:
        managed = False
        db_table = "products"
