"""Two user models as other projects have them; AUTH_USER_MODEL names the one in use."""

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models

__all__ = ["TextUser", "UuidUser"]


class UuidUser(AbstractBaseUser):
    """Known by a UUID, called by an e-mail address."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)

    objects = BaseUserManager()
    USERNAME_FIELD = "email"

    def __str__(self) -> str:
        return self.email


class TextUser(AbstractBaseUser):
    """Known and called by a short text."""

    login = models.CharField(primary_key=True, max_length=20)

    objects = BaseUserManager()
    USERNAME_FIELD = "login"

    def __str__(self) -> str:
        return self.login
