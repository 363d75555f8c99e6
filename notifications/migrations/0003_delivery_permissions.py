"""Who may send failed deliveries again, and who may see, replay and purge dead letters."""

from django.db import migrations

from notifications.label import LABEL


class Migration(migrations.Migration):
    dependencies = [(LABEL, "0002_deliveries")]

    operations = [
        migrations.AlterModelOptions(
            name="delivery",
            options={
                "ordering": ["-id"],
                "permissions": [
                    ("resend_delivery", "Can send failed deliveries again"),
                    ("view_dead_letters", "Can view dead letters"),
                    ("replay_dead_letters", "Can replay dead letters"),
                    ("purge_dead_letters", "Can purge dead letters"),
                ],
                "verbose_name_plural": "deliveries",
            },
        ),
    ]
