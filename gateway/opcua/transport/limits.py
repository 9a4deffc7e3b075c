"""What one client, and all of them together, can make the server hold or do."""

from __future__ import annotations

from typing import Final

# -- before a session is active: whoever reaches the port can ask for this much
STRANGER_BYTES_MAX: Final = 65_536  # of a message, and of the input that waits
STRANGER_READS_MAX: Final = 2_000  # values that a message may be made of
STRANGERS_MAX: Final = 25  # connections without an active session; a newcomer ends the oldest
ACTIVATION_S_MAX: Final = 10.0  # from connecting to an active session
HELLO_S_MAX: Final = 5.0  # to an open channel

# -- messages
CHUNK_BYTES: Final = 65_535  # of either direction
CHUNK_BYTES_MIN: Final = 8_192  # OPC 10000-6, 7.1.2.3
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
CHUNKS_MAX: Final = 512
READS_MAX: Final = 10_000  # values decoded at a stretch, of a message or a part of it: 10 ms
DIMENSIONS_MAX: Final = 10_000  # elements that the dimensions of an array may announce
URL_BYTES_MAX: Final = 4_096  # OPC 10000-6, 7.1.2.3

# -- a connection
INPUT_BYTES_MAX: Final = 512 * 1024  # waiting for its turn; then the socket is not read
IN_WORK_MAX: Final = 16  # requests whose service waits for something
PARKED_MAX: Final = 100  # requests that are answered later (Publish)
OUTPUT_BYTES_HIGH: Final = 512 * 1024  # unsent: no more requests are taken
OUTPUT_BYTES_MAX: Final = 16 * 1024 * 1024  # unsent: the connection is cut
UNREAD_S_MAX: Final = 20.0  # so long may it stay above OUTPUT_BYTES_HIGH

# -- channels
CHANNEL_LIFETIME_MS_MIN: Final = 10_000
CHANNEL_LIFETIME_MS_MAX: Final = 3_600_000
RENEWAL_S_MIN: Final = 0.2  # between two of a channel; answers wait, and clients give up after 1 s
OPENINGS_WAITING_MAX: Final = 64  # channels whose keys wait for their turn to be computed
OPENING_WAITS_S_MAX: Final = 2.0
OPENINGS_PER_S: Final = 30.0  # all clients together, in the long run
OPENINGS_BURST: Final = 60.0
ADDRESS_OPENINGS_PER_S: Final = 10.0  # of one address
ADDRESS_OPENINGS_BURST: Final = 40.0
ADDRESSES_MAX: Final = 1_000  # whose openings are counted

# -- sessions
SESSION_TIMEOUT_MS_MIN: Final = 5_000.0
SESSION_TIMEOUT_MS_MAX: Final = 600_000.0
SESSIONS_PER_CHANNEL_MAX: Final = 5
NONCE_BYTES: Final = 32
CLIENT_CHARS_MAX: Final = 120
REFUSALS_MAX: Final = 5  # activations refused: then the session ends

# -- computing time
SHARE: Final = 0.6  # of the process's one core, in the long run, for all requests together
BURST_S: Final = 0.3
