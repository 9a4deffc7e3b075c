"""The PostgreSQL driver against a real server, and against one that talks nonsense."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from config.findings import SiteError
from drivers.errors import Garbled, NoAnswer, NotConnected, Refused
from drivers.postgresql.driver import PROTOCOL, check, plan
from drivers.postgresql.guard import ANSWER_BYTES_MAX
from tests.drivers.postgres_case import Session, database
from tests.drivers.postgres_cluster import DATABASE, PASSWORD, READER, Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    drawn: list[int] = []

    def draw() -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            drawn.append(probe.getsockname()[1])
        return drawn[-1]

    server = Cluster(draw)
    try:
        server.start()
        server.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
        server.sql(
            f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'",
            "CREATE TABLE prices (at int PRIMARY KEY, euro numeric, state text)",
            "INSERT INTO prices VALUES (1, 80.25, 'Falling'), (2, 91.5, 'Rising')",
            "CREATE SEQUENCE numbers",
            "CREATE TABLE secret (word text)",
            # So that the transaction alone protects it from the driver.
            f"GRANT ALL ON prices, numbers TO {READER}",
        )
        yield server
    finally:
        server.remove()


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return str(file)


@pytest.fixture
async def connect(cluster: Cluster, password_file: str) -> AsyncIterator[Callable[..., Any]]:
    opened: list[Session] = []

    async def open_session(queries: dict[str, Any], **tags: Any) -> Session:
        made = database(queries, cluster.port, **{"PasswordFile": password_file} | tags)
        session = Session(made)
        opened.append(session)
        await session.driver.connect()
        return session

    yield open_session
    for session in opened:
        await session.driver.close()


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("SELECT 7::int2", 7.0),
        ("SELECT -70000::int4", -70000.0),
        ("SELECT 9007199254740993::int8", 9007199254740992.0),
        ("SELECT 0.1::float4", float(np.float32(0.1))),
        ("SELECT 0.1::float8", 0.1),
        ("SELECT 12345.678", 12345.678),
        ("SELECT true", 1.0),
        ("SELECT false;", 0.0),
        ("SELECT '  -1.5e3 '", -1500.0),
        ("SELECT 'OFF'", 0.0),
        ("SELECT 'no number'", math.nan),
        ("SELECT NULL::float8", math.nan),
        ("SELECT NULL", math.nan),
        ("SELECT 1 WHERE false", math.nan),
        ("SELECT 'NaN'::numeric", math.nan),
        ("SELECT 'Infinity'::float8", math.nan),
        ("SELECT 3::oid", 3.0),
        ("SELECT generate_series(5, 1000000000)", 5.0),
        ("VALUES (4), (5)", 4.0),
        ("SELECT euro FROM prices ORDER BY at DESC", 91.5),
    ],
)
async def test_the_first_column_of_the_first_row_is_the_value(
    connect: Any, sql: str, number: float
) -> None:
    session = await connect({"Value": sql})
    np.testing.assert_array_equal(await session.read(), [number])


async def test_channels_of_one_query_share_one_request_by_columns(connect: Any) -> None:
    query = "SELECT at, euro, state FROM prices ORDER BY at DESC LIMIT 1"
    session = await connect(
        {
            "Euro": {"QueryText": query, "ArrayPos": 1, "Scalar": 0.1, "Decimal": 2},
            "At": {"QueryText": f"  {query}\n"},
            "State": {"QueryText": query, "ArrayPos": 2, "States": ["Falling", "Rising"]},
            "Other": {"QueryText": query, "Class": "Slow"},
        }
    )
    assert [b.scan_class for b in session.blocks] == ["Fast", "Slow"]
    assert len({b.label for b in session.blocks}) == 2
    assert await session.read() == [9.15, 2.0, 1.0]


async def test_types_without_numbers_and_missing_columns_are_refused(connect: Any) -> None:
    session = await connect(
        {
            "Time": "SELECT now()",
            "Array": "SELECT ARRAY[1, 2]",
            "None": "SELECT",
            "Column": {"QueryText": "SELECT 1", "ArrayPos": 1},
            "Argument": "SELECT $1::int",
            "Good": "SELECT 2",
        }
    )
    for number, text in ((0, "datetime.*cast"), (1, "list"), (2, "0 columns"), (3, "column 1")):
        assert session.blocks[number].label.startswith("Fast: SELECT")
        with pytest.raises(Refused, match=text) as refusal:
            await session.read(number)
        assert refusal.value.permanent
    assert await session.read(5) == [2.0]
    with pytest.raises(Refused, match="1 argument") as refusal:
        await session.read(4)
    assert refusal.value.permanent
    assert await session.read(5) == [2.0]


async def test_types_of_the_database_itself_are_read(connect: Any, cluster: Cluster) -> None:
    cluster.sql("CREATE TYPE mood AS ENUM ('calm', 'wild')", "CREATE DOMAIN euro AS numeric")
    channel = {"QueryText": "SELECT 'wild'::mood", "States": ["calm", "wild"]}
    session = await connect({"Mood": channel, "Euro": "SELECT 3.5::euro"})
    assert await session.read(0) == [1.0]
    assert await session.read(1) == [3.5]


# ---------------------------------------------------------------- nothing is written

DELETING = "WITH gone AS (DELETE FROM prices RETURNING at) SELECT count(*) AS n FROM gone"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO prices VALUES (3, 1, 'x')",
        "COMMIT",
        "commit; DELETE FROM prices",
        "SET TRANSACTION READ WRITE",
        "COPY prices TO '/tmp/prices'",
        "PREPARE p AS SELECT 1",
        "DO $$ BEGIN COMMIT; END $$",
        "-- SELECT\nDELETE FROM prices",
        "/* SELECT */ DELETE FROM prices",
        "SELEKT 1",
        "1",
    ],
)
def test_a_statement_that_does_not_begin_with_a_reading_word_is_a_finding(sql: str) -> None:
    made = database({"A": sql}, 5432)
    (finding,) = check(made)
    assert (finding.rule, finding.key.endswith("A.QueryText")) == ("protocol-read-only", True)
    with pytest.raises(SiteError):
        plan(made)


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "(SELECT 1)",
        "-- one\n/* two */ (\n(WITH a AS (SELECT 1) SELECT * FROM a))",
        "VALUES (1)",
        "TABLE prices",
        "SHOW max_connections",
        "SELECT/**/1",
        "/**/" * 5000 + "SELECT",
    ],
)
def test_reading_statements_are_no_finding(sql: str) -> None:
    assert check(database({"A": sql}, 5432)) == []


@pytest.mark.parametrize(
    "sql",
    [
        "WITH new AS (INSERT INTO prices VALUES (3, 1, 'x') RETURNING at) SELECT at FROM new",
        "WITH gone AS (DELETE FROM prices RETURNING at) SELECT count(*) FROM gone",
        "SELECT nextval('numbers')",
        "SELECT * INTO copied FROM prices",
        "SELECT 1; DELETE FROM prices",
        "SELECT 1; COMMIT; DELETE FROM prices",
        "SELECT set_config('transaction_read_only', 'off', false)",
    ],
)
async def test_a_query_that_writes_is_refused_for_good(
    connect: Any, cluster: Cluster, sql: str
) -> None:
    session = await connect({"Value": sql, "Write": DELETING, "Good": "SELECT 1"})
    with pytest.raises(Refused, match=r"SQLSTATE (25006|25001|42601)") as refusal:
        await session.read()
    assert refusal.value.permanent
    with pytest.raises(Refused, match="SQLSTATE 25006"):
        await session.read(1)
    assert await session.read(2) == [1.0]
    assert cluster.sql("SELECT count(*) FROM prices") == "2"


async def test_a_session_that_was_told_to_write_still_reads_only(
    connect: Any, cluster: Cluster
) -> None:
    sql = "SELECT set_config('default_transaction_read_only', 'off', false)"
    session = await connect({"Set": sql, "Write": DELETING})
    await session.read()
    with pytest.raises(Refused, match="SQLSTATE 25006"):
        await session.read(1)
    assert cluster.sql("SELECT count(*) FROM prices") == "2"


async def test_a_command_is_refused_before_the_wire(connect: Any) -> None:
    session = await connect({"Value": "SELECT 1"})
    with pytest.raises(Refused) as refusal:
        await session.driver.write(session.instrument.points["Value"], 1.0)
    assert refusal.value.permanent
    assert await session.read() == [1.0]


# ---------------------------------------------------------------- refusals and losses


async def test_an_sql_error_carries_the_servers_word_and_the_session_goes_on(
    connect: Any,
) -> None:
    session = await connect(
        {
            "Typo": "SELECT FROM WHERE",
            "Table": "SELECT x FROM nowhere",
            "Right": "SELECT word FROM secret",
            "Data": "SELECT 1 / 0",
            "Good": "SELECT 2",
        }
    )
    for number, text in (
        (0, "syntax error.*42601"),
        (1, '"nowhere" does not exist.*42P01'),
        (2, "permission denied.*42501"),
    ):
        with pytest.raises(Refused, match=text) as refusal:
            await session.read(number)
        assert refusal.value.permanent
    with pytest.raises(Refused, match=r"division by zero.*22012") as refusal:
        await session.read(3)
    assert not refusal.value.permanent  # the next row may be another
    assert await session.read(4) == [2.0]


async def test_a_slow_query_is_no_answer_and_the_server_gives_it_up(
    connect: Any, cluster: Cluster
) -> None:
    session = await connect({"Slow": "SELECT pg_sleep(59)", "Good": "SELECT 2"}, Timeout=0.5)
    with pytest.raises(NoAnswer, match=r"within 0\.5 s"):
        await session.read()
    async with asyncio.timeout(20):
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(59)'"
        while cluster.sql(running + " AND state = 'active'") != "0":
            await asyncio.sleep(0.05)
    try:
        assert await session.read(1) == [2.0]
    except NotConnected:  # our own limit came first
        await session.driver.connect()
        assert await session.read(1) == [2.0]


async def test_a_lost_session_is_no_connection_and_can_be_opened_again(
    connect: Any, cluster: Cluster
) -> None:
    session = await connect({"Value": "SELECT 1", "Name": "SELECT pg_backend_pid()"})
    (pid,) = await session.read(1)
    cluster.sql(f"SELECT pg_terminate_backend({pid:.0f})")
    for _ in range(2):
        with pytest.raises(NotConnected):
            await session.read()
    await session.driver.connect()
    assert await session.read() == [1.0]


async def test_a_restarted_server_is_reached_again(connect: Any, cluster: Cluster) -> None:
    session = await connect({"Value": "SELECT 1"})
    cluster.stop()
    try:
        with pytest.raises(NotConnected):
            await session.read()
        with pytest.raises(NotConnected, match=str(cluster.port)):
            await session.driver.connect()
    finally:
        cluster.start()
    await session.driver.connect()
    assert await session.read() == [1.0]


async def test_a_row_without_end_is_not_collected(connect: Any) -> None:
    sql = f"SELECT repeat('x', {20 * ANSWER_BYTES_MAX})"
    session = await connect({"Big": sql, "Good": "SELECT 2"})
    with pytest.raises(Garbled, match=r"PostgreSQL|more than"):
        await session.read()
    with pytest.raises(NotConnected):
        await session.read(1)
    await session.driver.connect()
    assert await session.read(1) == [2.0]


async def test_wrong_password_and_wrong_database_say_so_without_the_password(
    cluster: Cluster, tmp_path: Path, password_file: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("swordfish")
    for tags, text in (
        ({"PasswordFile": str(wrong)}, "28P01"),
        ({}, "28P01|password"),
        (
            {
                "PasswordFile": password_file,
                "Server": f"postgresql://{READER}@127.0.0.1:{cluster.port}/elsewhere",
            },
            "3D000",
        ),
        ({"PasswordFile": str(tmp_path / "nowhere")}, "PasswordFile.*No such file"),
    ):
        session = Session(database({"Value": "SELECT 1"}, cluster.port, **tags))
        with pytest.raises(NotConnected, match=text) as error:
            await session.driver.connect()
        shown = repr(error.value) + str(error.value.__cause__) + repr(session.driver.__dict__)
        assert "swordfish" not in shown
        assert PASSWORD not in shown
        with pytest.raises(NotConnected):
            await session.read()


async def test_a_pinned_certificate_refuses_a_server_without_tls(
    cluster: Cluster, password_file: str, tmp_path: Path
) -> None:
    certificate = tmp_path / "server.pem"
    certificate.write_text("no certificate")
    tags = {"PasswordFile": password_file, "ServerCertificateFile": str(certificate)}
    session = Session(database({"Value": "SELECT 1"}, cluster.port, **tags))
    with pytest.raises(NotConnected, match="certificate files"):
        await session.driver.connect()


def certificate(folder: Path, name: str, issuer: str = "", word: bytes = b"") -> Path:
    """A certificate and its key, signed by itself or by another one of the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signed_by = key, subject
    if issuer:
        loaded = load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
        signed_by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(signed_by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    closed = BestAvailableEncryption(word) if word else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, closed)
    (folder / f"{name}.key").write_bytes(pem)
    (folder / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
    return folder / f"{name}.pem"


@pytest.fixture
def encrypted(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The server with TLS; its certificate `leaf` is signed by `root`."""
    root, leaf = certificate(tmp_path, "root"), certificate(tmp_path, "leaf", "root")
    assert root.exists()
    cluster.encrypt(leaf.read_bytes(), leaf.with_suffix(".key").read_bytes())
    yield tmp_path
    cluster.encrypt(b"", b"")


TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


async def test_tls_is_used_and_the_certificate_counts(
    encrypted: Path, cluster: Cluster, connect: Any
) -> None:
    session = await connect({"Tls": TLS})
    assert await session.read() == [1.0]  # where the server offers it
    for name in ("leaf", "root"):  # the one it shows, or the one that signed it
        pinned = {"ServerCertificateFile": str(encrypted / f"{name}.pem")}
        big = f"SELECT repeat('x', {20 * ANSWER_BYTES_MAX})"
        session = await connect({"Tls": TLS, "Big": big}, **pinned)
        assert await session.read() == [1.0]
        with pytest.raises(Garbled, match=r"PostgreSQL|more than"):
            await session.read(1)
    other = certificate(encrypted, "other")
    with pytest.raises(NotConnected, match=r"(?i)certificate verify failed"):
        await connect({"Tls": TLS}, ServerCertificateFile=str(other))


async def test_a_key_that_wants_a_word_is_named_and_nobody_is_asked_for_it(
    encrypted: Path, connect: Any
) -> None:
    own = certificate(encrypted, "own", word=b"open sesame")
    tags = {
        "ServerCertificateFile": str(encrypted / "leaf.pem"),
        "CertificateFile": str(own),
        "KeyFile": str(own.with_suffix(".key")),
    }
    with pytest.raises(NotConnected, match="certificate files"):
        await connect({"Tls": TLS}, **tags)


# ---------------------------------------------------------------- findings


@pytest.mark.parametrize(
    ("queries", "tags", "key", "rule"),
    [
        ({}, {"Server": None}, "Server", "connection-missing"),
        ({}, {"Server": "mysql://rig@10.0.0.1/x"}, "Server", "connection-missing"),
        ({}, {"Server": "postgresql://rig:pw@10.0.0.1/x"}, "Server", "secret-inside"),
        ({}, {"Server": "postgresql://10.0.0.1/x"}, "Server", "user-missing"),
        ({}, {"Server": "postgresql://rig@10.0.0.1/x/y"}, "Server", "user-missing"),
        ({"A": {"QueryText": None}}, {}, "A.QueryText", "address-missing"),
        ({"A": "  "}, {}, "A.QueryText", "address-missing"),
        ({"A": "SELECT '\0'"}, {}, "A.QueryText", "text-invalid"),
        (
            {"A": {"QueryText": "SELECT 1", "ReadWrite": "RW"}},
            {},
            "A.ReadWrite",
            "protocol-read-only",
        ),
        ({"A": {"QueryText": "SELECT 1", "Scalar": 0.0}}, {}, "A.Scalar", "scalar-zero"),
        ({"A": {"QueryText": "SELECT 1", "DataType": "HEX"}}, {}, "A.DataType", "datatype-unknown"),
        ({"A": "SELECT 1", "B": " SELECT 1"}, {}, "A", "address-shared"),
    ],
)
def test_findings(queries: dict[str, Any], tags: dict[str, Any], key: str, rule: str) -> None:
    made = database(queries, 5432, **tags)
    (finding,) = check(made)
    assert finding.rule == rule
    assert finding.key.endswith(key)
    assert "pw" not in finding.message.replace("://rig@", "")
    if finding.severity == "error":
        with pytest.raises(SiteError):
            plan(made)


def test_the_seeds_spelling_is_the_same_driver() -> None:
    made = database({"A": "SELECT 1"}, 5432, Communication="PostGreSQL")
    assert check(made) == []
    assert "PostGreSQL" in PROTOCOL.names
