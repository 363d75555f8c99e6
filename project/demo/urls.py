"""The URLs of the demo shop."""

from django.urls import path

from project.demo import views

urlpatterns = [
    path("", views.show_shop, name="shop"),
    path("orders/", views.show_orders, name="orders"),
    path("orders/place/<int:product_id>/", views.place_order, name="place_order"),
    path("login/", views.Login.as_view(), name="login"),
    path("logout/", views.Logout.as_view(), name="logout"),
]
