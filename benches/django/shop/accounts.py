"""Whose a token is: the app's own lookup (app/src/store/tokens.rs, app/src/http/caller.rs), for both flavours."""
import hashlib
import re
from dataclasses import dataclass

from django.db import connection

# What the app takes for one of its tokens: 256 bits as base64 for URLs.
BEARER = re.compile(r"bearer +([A-Za-z0-9_-]{43})", re.ASCII | re.IGNORECASE)
# Its use is noted once a minute, not with every request.
USER_OF = """WITH used AS (UPDATE api_tokens SET last_used_at = now() WHERE digest = %(digest)s AND expires_at > now()
   AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute'))
 SELECT u.id, u.email, u.name, u.role, u.session_epoch, t.scopes FROM api_tokens t JOIN users u ON u.id = t.user_id
 WHERE t.digest = %(digest)s AND t.expires_at > now() AND u.is_active"""


@dataclass
class Account:
    id: str
    email: str
    name: str
    role: str
    session_epoch: int
    scopes: list

    is_authenticated = True


def by_header(value):
    """None for a header that is not one of an account which is there and active."""
    token = BEARER.fullmatch(value)
    if not token:
        return None
    with connection.cursor() as cursor:
        cursor.execute(USER_OF, {"digest": hashlib.sha256(token[1].encode()).digest()})
        row = cursor.fetchone()
    return row and Account(*row)
