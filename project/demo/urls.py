"""The URLs of the demo shop."""

from django.urls import path

from project.demo import live_map, views

urlpatterns = [
    path("", views.show_shop, name="shop"),
    path("orders/", views.show_orders, name="orders"),
    path("orders/place/<int:product_id>/", views.place_order, name="place_order"),
    path("orders/<int:order_id>/receipt/", views.show_receipt, name="receipt"),
    path("map/", live_map.show_map, name="map"),
    path("map/simulation/", live_map.simulation, name="simulation"),
    path("login/", views.Login.as_view(), name="login"),
    path("logout/", views.Logout.as_view(), name="logout"),
]
