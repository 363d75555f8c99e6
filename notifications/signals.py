"""Django signals of this app, for projects to connect to."""

from django.dispatch import Signal

__all__ = ["address_gone"]

# A provider said that an address of a user is no longer there (404 or 410): nothing is sent to it any more. Sent once
# for each, in a thread in which the ORM may be used, after it was written down: its owner can be told.
#
# sender: the class Destination or PushSubscription; address: the row, which a browser's no longer is; user_id;
# transport: the name of the transport; reason: what the provider said. What a receiver raises is logged.
address_gone = Signal()
