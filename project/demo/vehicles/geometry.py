"""Distances and directions on a sphere. Points are (longitude, latitude) in degrees."""

import math

__all__ = ["bearing_of", "distance_km", "moved", "on_the_way"]

type Point = tuple[float, float]

EARTH_RADIUS_KM = 6371.0


def distance_km(a: Point, b: Point) -> float:
    """The distance along the great circle."""
    (lon_a, lat_a), (lon_b, lat_b) = ((math.radians(lon), math.radians(lat)) for lon, lat in (a, b))
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))


def bearing_of(a: Point, b: Point) -> float:
    """The direction from a to b: degrees clockwise from the north, at a."""
    (lon_a, lat_a), (lon_b, lat_b) = ((math.radians(lon), math.radians(lat)) for lon, lat in (a, b))
    y = math.sin(lon_b - lon_a) * math.cos(lat_b)
    x = math.cos(lat_a) * math.sin(lat_b) - math.sin(lat_a) * math.cos(lat_b) * math.cos(lon_b - lon_a)
    return math.degrees(math.atan2(y, x)) % 360


def moved(point: Point, bearing: float, km: float) -> Point:
    """The point at this distance from `point` in this direction."""
    lon, lat, angle = math.radians(point[0]), math.radians(point[1]), math.radians(bearing)
    arc = km / EARTH_RADIUS_KM
    new_lat = math.asin(math.sin(lat) * math.cos(arc) + math.cos(lat) * math.sin(arc) * math.cos(angle))
    y = math.sin(angle) * math.sin(arc) * math.cos(lat)
    new_lon = lon + math.atan2(y, math.cos(arc) - math.sin(lat) * math.sin(new_lat))
    return (math.degrees(new_lon) + 540) % 360 - 180, math.degrees(new_lat)


def on_the_way(a: Point, b: Point, share: float) -> Point:
    """The point at this share of the great circle from a to b."""
    return moved(a, bearing_of(a, b), distance_km(a, b) * share)
