"""User models as other projects have them; AUTH_USER_MODEL names the one in use."""

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models

__all__ = ["DecimalUser", "EmailUser", "NumberUser", "TextUser", "UuidUser"]


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


class EmailUser(AbstractBaseUser):
    """The primary key is an e-mail address, or any other text."""

    email = models.EmailField(primary_key=True)

    objects = BaseUserManager()
    USERNAME_FIELD = "email"

    def __str__(self) -> str:
        return self.email


class NumberUser(AbstractBaseUser):
    """Known by a number that no browser can hold exactly, as generators of ids make them."""

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=20, unique=True)

    objects = BaseUserManager()
    USERNAME_FIELD = "name"

    def __str__(self) -> str:
        return self.name


class DecimalUser(AbstractBaseUser):
    """Known by a number with a fraction."""

    id = models.DecimalField(primary_key=True, max_digits=8, decimal_places=2)

    objects = BaseUserManager()
    USERNAME_FIELD = "id"

    def __str__(self) -> str:
        return str(self.pk)
