"""Stores that are not on this machine: ``s3://``, ``gs://`` and ``https://``, through obstore.

Credentials come from where the tools of each cloud keep them, never from the URL: what a user types, a store records
and a table shows has no secrets in it. Other processes are sent the URL and look for their own credentials.
docs/decisions/057-remote-stores.md
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from schemas.errors import InputError, MissingDependencyError, StoreError
from schemas.remote_errors import explained, redact

if TYPE_CHECKING:
    import obstore.store

__all__ = ["Remote", "RemoteStore", "content_digest", "is_url", "matching_urls", "open_remote"]

_RETRIES: dict[str, Any] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
}
"""Enough for a server that is busy for a moment; who cannot be reached at all is told within seconds."""
_CONNECT, _SILENCE, _REQUEST = timedelta(seconds=4), timedelta(seconds=20), timedelta(minutes=10)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_url(path: str | os.PathLike[str]) -> bool:
    """True for ``s3://bucket/run.zarr`` and the like, False for a local path."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", os.fspath(path)) is not None


@dataclass(frozen=True)
class Remote:
    """A place in an object store. ``host`` is who is asked; ``signed``: whether credentials are shown to it."""

    url: str
    host: str
    signed: bool
    objects: obstore.store.ObjectStore

    def explained(self, error: Exception, key: str, verb: str = "read") -> StoreError:
        """What to tell the user about ``error``."""
        return explained(error, self.url, key, self.host, signed=self.signed, verb=verb)

    def get(self, key: str) -> bytes | None:
        """The object at ``key``, or None; raises StoreError where it cannot be read, or there is no such bucket."""
        import obstore

        try:
            return bytes(obstore.get(self.objects, key).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self.explained(error, key) from None
            return None
        except Exception as error:
            raise self.explained(error, key) from None

    def listed(self) -> dict[str, tuple[int, str | None]]:
        """key -> (bytes, entity tag) of all objects there; raises StoreError where they may not be listed."""
        import obstore

        try:
            found = [one for page in obstore.list(self.objects) for one in page]
        except Exception as error:
            raise self.explained(error, "the list of objects") from None
        return {one["path"]: (one["size"], (one["e_tag"] or "").strip('"') or None) for one in found}


class RemoteStore(ObjectStore[Any]):
    """zarr-python's view of a Remote, to be read: whatever goes wrong is a StoreError that says what to do."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(remote.objects, read_only=True)
        self.remote = remote

    def __reduce__(self) -> Any:
        """By its URL alone: no credentials travel to other processes."""
        return _reopened, (self.remote.url,)

    def __getstate__(self) -> dict[Any, Any]:
        return {}

    def __str__(self) -> str:
        return self.remote.url

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            return await super().get(key, prototype, byte_range)
        except Exception as error:
            raise self.remote.explained(error, key) from None

    async def exists(self, key: str) -> bool:
        try:
            return await super().exists(key)
        except Exception as error:
            raise self.remote.explained(error, key) from None

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        try:
            async for name in super().list_dir(prefix):
                yield name
        except Exception as error:
            raise self.remote.explained(error, prefix) from None


def _reopened(url: str) -> RemoteStore:
    return RemoteStore(open_remote(url))


def content_digest(url: str) -> str | None:
    """A digest of the URL and of all objects there, their sizes and entity tags; None where they cannot be listed."""
    if not url.startswith(("s3://", "gs://")):
        return None
    try:
        listed = open_remote(url).listed()
    except StoreError:
        return None
    if any(tag is None for _, tag in listed.values()):
        return None
    return hashlib.sha256(json.dumps([url, sorted(listed.items())]).encode()).hexdigest()


def matching_urls(pattern: str) -> list[str]:
    """The URLs of a bucket that ``s3://bucket/runs/*.zarr`` matches, by name: ``*`` and ``[...]`` within a name.

    One that is a store as it stands is itself. Raises InputError for a web server, which gives no list, and where
    ``open_remote`` does; StoreError where the bucket cannot be listed.
    """
    scheme, _, place = pattern.partition("://")
    bucket, *names = place.rstrip("/").split("/")
    if "?" in place:
        return [pattern]  # a query, which open_remote refuses in its own words
    if scheme.lower() not in ("s3", "gs"):
        raise InputError(f"{redact(pattern)}: a web server gives no list of its stores: name each by itself")
    if re.search(r"[*\[]", bucket):
        raise InputError(f"{redact(pattern)}: a pattern has * or [...] in names of folders and stores, not of a bucket")
    if open_remote(pattern).get("zarr.json") is not None:
        return [pattern]
    found = [f"{scheme}://{bucket}"]
    for name in names:
        found = [
            f"{parent}/{child}"
            for parent in found
            for child in ([name] if not re.search(r"[*\[]", name) else _folders(parent, name))
        ]
    return [url for url in found if open_remote(url).get("zarr.json") is not None]


def _folders(url: str, pattern: str) -> list[str]:
    """Names of folders directly below ``url`` that match ``pattern``, ascending."""
    import obstore

    remote = open_remote(url)
    try:
        below = obstore.list_with_delimiter(remote.objects)["common_prefixes"]
    except Exception as error:
        raise remote.explained(error, "the list of objects") from None
    return sorted(
        name for name in (prefix.rstrip("/").split("/")[-1] for prefix in below) if fnmatchcase(name, pattern)
    )


def open_remote(url: str) -> Remote:
    """The place that ``url`` names; nothing is asked of it yet.

    Raises InputError for a URL that is none of these or has a secret in it, MissingDependencyError without the
    package that reads them.
    """
    scheme, _, place = url.partition("://")
    scheme, rest = scheme.lower(), "://" + place.rstrip("/")
    url = scheme + rest
    shown = redact(url)
    try:
        parts = urlsplit(url)
        bucket = parts.hostname or ""
    except ValueError as error:
        raise InputError(f"{shown} is no URL: {redact(str(error))}") from None
    if not rest.isprintable():
        raise InputError(f"{shown!r} is no URL: it has a character that none has")
    if scheme not in ("s3", "gs", "https", "http"):
        raise InputError(f"{shown}: stores are read from s3://, gs:// and https://, and from folders; not {scheme}://")
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in rest or "#" in rest:
        raise InputError(
            f"{shown}: a URL with a password, a query or a signature in it is not taken, because commands and results "
            "record it. Credentials of s3:// and gs:// come from the environment (AWS_PROFILE, "
            "GOOGLE_APPLICATION_CREDENTIALS); an https:// store must be readable without"
        )
    if not bucket:
        raise InputError(f"{shown} names no bucket or host: write s3://BUCKET/PATH.zarr")
    if "//" in parts.path:
        raise InputError(f"{shown} has an empty name between two slashes: write {re.sub('(?<!:)//+', '/', shown)}")
    if scheme == "http" and bucket not in _LOOPBACK:
        raise InputError(
            f"{shown}: http:// is taken of this machine alone, as nothing protects what it carries: use https://"
        )
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            f"{shown} needs a package that is not installed (obstore); "
            "install it with: pip install 'outlier-features[cloud]'"
        ) from None
    prefix = parts.path.strip("/")
    try:
        if scheme in ("s3", "gs"):
            return _bucket(url, scheme, parts.netloc, prefix)
        return _http(url, parts.netloc)
    except (InputError, MissingDependencyError):
        raise
    except Exception as error:  # obstore's own of a setting in the environment: its text may repeat the value
        raise InputError(
            f"{shown} cannot be opened ({type(error).__name__}): what the environment sets for {scheme}:// is not valid"
        ) from None


def _bucket(url: str, scheme: str, bucket: str, prefix: str) -> Remote:
    from obstore.store import GCSStore, S3Store

    opened: Any
    if scheme == "s3":
        opened, owner, access = S3Store, "Amazon S3", _s3_access(url)
    else:
        opened, owner, access = GCSStore, "Google Cloud Storage", _gs_access(url)
    endpoint, signed, settings = access
    objects = opened(
        bucket,
        prefix=prefix or None,
        client_options=_client_options(endpoint),
        retry_config=_RETRIES,
        **settings if signed else {**settings, "skip_signature": True},
    )
    return Remote(url, redact(endpoint or owner), signed, objects)


def _s3_access(url: str) -> tuple[str, bool, dict[str, Any]]:
    """(endpoint, "" for Amazon's own; whether requests are signed; obstore's other settings), by the environment."""
    environment = os.environ
    endpoint = next(
        (environment[n] for n in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if environment.get(n)), ""
    )
    settings: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    signed, provider = True, None
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    held = [name for name in pair if environment.get(name)]
    if len(held) == 1:
        lacking = next(name for name in pair if name not in held)
        raise InputError(f"{url}: {held[0]} is set and {lacking} is not: set both, or neither")
    if held:
        pass
    elif (environment.get("AWS_SKIP_SIGNATURE") or "").lower() in ("1", "true"):
        signed = False
    else:
        provider, kept_region = _kept_aws_credentials(url)
        region, signed = region or kept_region, provider is not None
    if provider is not None:
        settings["credential_provider"] = provider
    if region:
        settings["region"] = region
    return endpoint, signed, settings


def _kept_aws_credentials(url: str) -> tuple[Any, str | None]:
    """(what gives obstore the credentials that AWS's own tools would use, region); None for those there are none."""
    try:
        import botocore.exceptions
        import botocore.session
    except ImportError:
        raise MissingDependencyError(
            f"{url} needs a package that is not installed (botocore); "
            "install it with: pip install 'outlier-features[cloud]'"
        ) from None
    try:
        session = botocore.session.get_session()
        credentials = session.get_credentials()
        region = session.get_config_variable("region")
    except botocore.exceptions.BotoCoreError as error:
        profile = os.environ.get("AWS_PROFILE")
        raise InputError(
            f"{url}: the AWS configuration cannot be used ({type(error).__name__}"
            + (f", AWS_PROFILE={profile}" if profile else "")
            + "): see which profiles there are with: aws configure list-profiles"
        ) from None

    def given() -> dict[str, Any]:
        from datetime import UTC, datetime

        held = credentials.get_frozen_credentials()
        return {
            "access_key_id": held.access_key,
            "secret_access_key": held.secret_key,
            "token": held.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=15),
        }

    return (given if credentials is not None else None), region


def _gs_access(url: str) -> tuple[str, bool, dict[str, Any]]:
    """(endpoint, "" for Google's own; whether requests are signed; obstore's other settings), by the environment."""
    environment = os.environ
    names = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY")
    files = [environment[name] for name in names[:2] if environment.get(name)]
    for name in names[:2]:
        if environment.get(name) and not os.path.isfile(environment[name]):
            raise InputError(f"{url}: {name} names {environment[name]}, which is no file: {_GS_KEY}")
    own = Path.home() / ".config/gcloud/application_default_credentials.json"
    signed = bool(files or environment.get(names[2])) or own.is_file() or _is_google_machine()
    if (environment.get("GOOGLE_SKIP_SIGNATURE") or "").lower() in ("1", "true"):
        signed = False
    endpoint = environment.get("GOOGLE_BASE_URL", "")
    return endpoint, signed, {"base_url": endpoint} if endpoint else {}


_GS_KEY = "give a key's file, or run: gcloud auth application-default login"


def _is_google_machine() -> bool:
    """True where the machine itself has credentials of Google's; asking elsewhere would take seconds."""
    try:
        return "Google" in Path("/sys/class/dmi/id/product_name").read_text()
    except OSError:
        return False


def _http(url: str, host: str) -> Remote:
    from obstore.store import HTTPStore

    objects = HTTPStore.from_url(url, client_options=_client_options(url), retry_config=_RETRIES)  # type: ignore[arg-type]
    return Remote(url, host, False, objects)


def _client_options(endpoint: str) -> Any:
    return {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": _CONNECT,
        "read_timeout": _SILENCE,
        "timeout": _REQUEST,
    }
