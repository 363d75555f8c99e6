"""Django signals of this app, for projects to connect to."""

from django.dispatch import Signal

__all__ = ["address_gone"]

# A provider answered that an address of a user no longer exists (404 or 410), so nothing is sent to it any more. A
# project can use the signal to inform the user. It is sent once for each address, after the change is committed, in a
# thread that may use the ORM. Errors of receivers are logged.
#
# sender: the class Destination or PushSubscription. address: the row; a PushSubscription is already deleted. user_id:
# the primary key of its user. transport: the name of the transport. reason: the provider's answer.
address_gone = Signal()
