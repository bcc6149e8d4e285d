"""What is said of a remote store that cannot be read or written, and of no message what must stay secret.

An object store's answer may repeat keys, signatures and tokens. So only its status and its code word are told, and
what is told passes ``redact``.
"""

from __future__ import annotations

import os
import re

from schemas.errors import StoreError

__all__ = ["explained", "redact"]

_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "HF_TOKEN",
)
_SHORTEST_SECRET = 6
_PATTERNS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s'\"<>]*@"), r"\1***@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s'\"<>?#]*)[?#][^\s'\"<>]*[^\s'\"<>:.,]"), r"\1?***"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}"), "***"),
    (re.compile(r"(?i)\b(signature|credential|x-amz-[a-z-]+|x-goog-[a-z-]+|sig|token)=[^\s&,;'\"<>]+"), r"\1=***"),
    (re.compile(r"(?i)\b(authorization|bearer)([:=]?\s+)\S+(\s+[A-Za-z]+=\S+)*"), r"\1\2***"),
)

_HOW_TO_SIGN = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key's file, or run: gcloud auth application-default login",
    "https": "stores are read from https:// without signing in: give one that is public, or copy it to this machine",
}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL"}


def redact(text: str) -> str:
    """``text`` without passwords and queries of URLs, access keys, signatures, and secrets of the environment.

    >>> redact("https://me:word@host/run.zarr?X-Amz-Signature=abc cannot be read")
    'https://***@host/run.zarr?*** cannot be read'
    """
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def explained(error: Exception, url: str, key: str, host: str, *, signed: bool, verb: str = "read") -> StoreError:
    """What ``error`` of obstore means for the store at ``url``, one sentence and what to do; never its own text.

    ``key``: the object that was asked for; ``host``: who was asked; ``signed``: with credentials.
    """
    said = str(error)
    scheme, _, place = url.partition("://")
    scheme, bucket = "https" if scheme == "http" else scheme, place.split("/")[0]
    code = re.search(r"<Code>(\w+)</Code>", said)
    status = re.search(r"status code: (\d{3})", said)
    told = code.group(1) if code else f"status {status.group(1)}" if status else type(error).__name__
    sign = _HOW_TO_SIGN[scheme]
    unreachable = _ENDPOINT.get(scheme)
    check = "Check the network" + (f" and {unreachable}" if unreachable else "")
    if "169.254.169.254" in said or "metadata.google" in said or "oauth2.googleapis.com" in said:
        return StoreError(f"{url}: no credentials were found: {sign}")
    if told == "NoSuchBucket" or (told == "status 404" and scheme == "gs" and "bucket" in said):
        return StoreError(f"{url}: {host} has no bucket {bucket!r}. Check its name" + _or_endpoint(scheme))
    refused = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    if refused or told in ("status 401", "status 403"):
        if not signed:
            return StoreError(
                f"{url}: no credentials were found, and it may not be {_done(verb)} without ({told}): {sign}"
            )
        return StoreError(
            f"{url}: these credentials may not {verb} {key} ({told}). Check them, and that they may {verb} and list "
            f"objects of {bucket!r}; for others, {sign}"
        )
    if "redirect" in said or told in ("PermanentRedirect", "AuthorizationHeaderMalformed", "status 301"):
        return StoreError(f"{url}: the bucket {bucket!r} is in another region ({told}): set AWS_REGION to its own")
    if not status and ("error sending request" in said or "timed out" in said or "Connect" in said):
        why = next(
            (w for w in ("dns error", "Connection refused", "timed out", "certificate") if w in said), "no answer"
        )
        return StoreError(f"{url}: {host} cannot be reached ({why.lower()}). {check}, and run the same command again")
    return StoreError(f"{url}: {key} cannot be {_done(verb)} ({told}). {check}, and run the same command again")


def _done(verb: str) -> str:
    return {"read": "read", "write": "written"}[verb]


def _or_endpoint(scheme: str) -> str:
    return f", and {_ENDPOINT[scheme]}" if scheme in _ENDPOINT else ""
