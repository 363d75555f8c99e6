"""The goods of the demo shop."""

from decimal import Decimal

from django.db import migrations

GOODS = [
    ("lamp", "Signal lamp", "Looks like paraffin, glows by battery. Red, amber and green.", "64.00"),
    ("clock", "Station clock", "Waits a moment at every full minute, as it should.", "89.00"),
    ("mug", "Enamel mug", "Keeps tea warm from here to the terminus.", "18.00"),
    ("bell", "Block bell", "One stroke means: are you there? The answer is one stroke.", "36.00"),
    ("whistle", "Guard’s whistle", "Nickel on brass. Everybody on board after the second one.", "14.00"),
    ("timetable", "Pocket timetable", "120 ruled pages, every departure still to be decided.", "12.00"),
]


def add_goods(apps, schema_editor):
    apps.get_model("demo", "Product").objects.using(schema_editor.connection.alias).bulk_create(
        apps.get_model("demo", "Product")(drawing=drawing, name=name, description=description, price=Decimal(price))
        for drawing, name, description, price in GOODS
    )


class Migration(migrations.Migration):
    dependencies = [("demo", "0001_initial")]
    # Backwards, the table goes with its rows.
    operations = [migrations.RunPython(add_goods, migrations.RunPython.noop)]
