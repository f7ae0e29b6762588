"""What a pattern means, in words: for the command line's complaints and, beside the pattern, for the API server's."""

from __future__ import annotations

from . import quantities as q
from .edgemodel import CRON_PATTERN, LABEL_PATTERN, NM_PATTERN, SHA256_PATTERN, TIME_ZONE_PATTERN, URI_PATTERN
from .meta import DNS_NAME_PATTERN

WORDS = {
    q.PERCENT_PATTERN: 'a percentage from 0% to 100%, such as "5%" or "0.5%"',
    q.POSITIVE_PERCENT_PATTERN: 'a percentage above 0% and up to 100%, such as "25%"',
    q.SLOWDOWN_PATTERN: 'a percentage, such as "10%"',
    q.DURATION_PATTERN: "a duration, such as 90s, 0.5ms or 1h30m",
    q.QUANTITY_PATTERN: "a quantity, such as 20Mi, 500k or 1048576",
    q.DECIMAL_PATTERN: 'a decimal number in quotes, such as "4" or "2.5"',
    DNS_NAME_PATTERN: "a name of lower-case letters, digits, '-' and '.', such as file-type",
    SHA256_PATTERN: "a sha256: 64 hex digits in lower case, as sha256sum prints it",
    URI_PATTERN: "a URI that starts with https:, oci:, oci-layout:, s3:, pvc: or file:, such as file:model.onnx",
    LABEL_PATTERN: "a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    NM_PATTERN: '"1:2", or N:4, N:8 or N:16 with N less than M, such as "2:4"',
    CRON_PATTERN: 'a cron schedule with five parts, such as "0 2 * * *"',
    TIME_ZONE_PATTERN: "a time zone, such as Europe/Berlin",
}  # fmt: skip
