"""Django REST framework as its documentation has it: serializers check and render, the cache keeps data."""
from django.conf import settings
from django.core.cache import cache
from django.http import HttpResponse
from django.urls import path
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import APIException, AuthenticationFailed, ValidationError
from rest_framework.permissions import BasePermission
from rest_framework.response import Response
from rest_framework.views import APIView

from . import accounts, catalogue, orders
from .models import Product


class ListQuery(serializers.Serializer):
    cursor = serializers.CharField(required=False, allow_blank=True)
    limit = serializers.IntegerField(min_value=1, max_value=100, default=20)
    category = serializers.CharField(required=False, allow_blank=True, max_length=64)
    brand = serializers.CharField(required=False, allow_blank=True, max_length=64)
    min_price = serializers.IntegerField(required=False, min_value=0)
    max_price = serializers.IntegerField(required=False, min_value=0)
    sort = serializers.ChoiceField(choices=list(catalogue.ORDER), default="id")

    def validate(self, query):
        if cursor := query.pop("cursor", ""):
            try:
                query["after"] = catalogue.decode(cursor, query["sort"])
            except ValueError as error:
                raise ValidationError({"cursor": str(error)}) from error
        return query


class ProductSerializer(serializers.ModelSerializer):
    category = serializers.CharField()
    in_stock = serializers.BooleanField()

    class Meta:
        model = Product
        fields = ["sku", "name", "description", "brand", "category", "price_cents", "currency", "in_stock"]


class Line(serializers.Serializer):
    sku = serializers.CharField(max_length=64)
    qty = serializers.IntegerField(min_value=1, max_value=1000)


class Order(serializers.Serializer):
    email = serializers.EmailField(max_length=254)
    items = Line(many=True, min_length=1, max_length=50)


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request):
        header = get_authorization_header(request).decode("latin-1")
        if not header:
            return None
        account = accounts.by_header(header)
        if account is None:
            raise AuthenticationFailed("invalid_token")
        return account, account.scopes

    def authenticate_header(self, request):
        return "Bearer"


class MayOrder(BasePermission):
    """A guest may; a token must have the scope."""

    def has_permission(self, request, view):
        return request.auth is None or "order" in request.auth


class Refusal(APIException):
    def __init__(self, status, code):
        super().__init__(code, code)
        self.status_code = status


class Products(APIView):
    # The catalogue is public: the app does not look at credentials there either.
    authentication_classes = []

    def get(self, request):
        query = ListQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        query = query.validated_data
        name = catalogue.key(query)
        page = cache.get(name)
        if page is None:
            page = self.page(query)
            cache.set(name, page, settings.CACHED_SECONDS)
        return Response(page)

    def page(self, query):
        found = list(Product.objects.raw(*catalogue.listing(query)))
        more, found = len(found) > query["limit"], found[: query["limit"]]
        next_cursor = catalogue.encode(query["sort"], found[-1].price_cents, found[-1].id) if more else None
        return {"items": ProductSerializer(found, many=True).data, "next_cursor": next_cursor}


class Orders(APIView):
    authentication_classes = [TokenAuthentication]
    permission_classes = [MayOrder]

    def post(self, request):
        key = request.headers.get("Idempotency-Key", "")
        if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable() and " " not in key):
            raise Refusal(400, "idempotency_key_invalid")
        order = Order(data=request.data)
        order.is_valid(raise_exception=True)
        order = order.validated_data
        try:
            user = request.user.id if request.auth is not None else None
            status, body, headers = orders.place(
                user, order["email"], orders.merged(order["items"]), key, request.headers.get("X-Request-Id", "")
            )
        except orders.Refused as refused:
            raise Refusal(refused.status, refused.code) from refused
        return HttpResponse(body, status=status, content_type="application/json", headers=headers)


urlpatterns = [path("api/v1/products", Products.as_view()), path("api/v1/orders", Orders.as_view())]
