"""What a client's options may cost: a refusal names the option, and repeats no value, which may be a password."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from forebay.errors import ConfigError, ForebayError
from forebay.streams import deadletters
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics, describe

pytestmark = pytest.mark.broker
CANARY = "hunter2-canary"
KINDS = ("KafkaProducer", "KafkaConsumer", "KafkaAdminClient")
SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
NAMED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt option": ({"sasl_plain_pasword": CANARY}, "no option sasl_plain_pasword"),
    "several": ({"sasl_plain_pasword": CANARY, "ssl_pasword": CANARY}, "ssl_pasword"),
    "a proxy without a scheme": ({"proxy_url": CANARY}, "proxy_url is not"),
    "a proxy of another kind": ({"proxy_url": f"ftp://u:{CANARY}@h:1"}, "proxy_url is not"),
    "a proxy with a colon in its password": ({"proxy_url": f"socks5://u:a:{CANARY}"}, "proxy_url is not"),
    "a protocol that is none": ({"security_protocol": CANARY}, "security_protocol is not"),
    "an old proxy": ({"socks5_proxy": CANARY}, "socks5_proxy is not"),
}
OTHER: dict[str, dict[str, Any]] = {
    "a user without a password": {**SASL, "sasl_plain_username": CANARY},
    "a mechanism that is none": {**SASL, "sasl_mechanism": CANARY, "sasl_plain_password": CANARY},
    "a number that is none": {"request_timeout_ms": CANARY},
    "a password for a broker that has none": {**SASL, "sasl_plain_username": "u", "sasl_plain_password": CANARY},
}


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + str(error) + repr(error.__dict__)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMED)
def test_a_refused_option_is_named_and_its_value_is_not_repeated(
    name: str, kind: str, kafka: DevKafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the error, its traceback or a log line that is on by default."""
    options, named = NAMED[name]
    with caplog.at_level(logging.INFO), pytest.raises(ConfigError) as caught:
        connected(kind, kafka.bootstrap, timeout_s=2.0, **options)
    assert CANARY not in _said(caught.value) and CANARY not in caplog.text
    assert named in caught.value.what and caught.value.do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OTHER)
def test_what_fails_later_repeats_no_value_either(
    name: str, kind: str, kafka: DevKafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Some values kafka-python finds out about while it connects; for us that is a broker that does not answer, or a
    refusal."""
    with caplog.at_level(logging.INFO), pytest.raises(ForebayError) as caught:
        connected(kind, kafka.bootstrap, timeout_s=1.0, **OTHER[name])
    assert CANARY not in _said(caught.value) and CANARY not in caplog.text


def test_a_refusal_in_its_own_words_is_cut_to_the_options_that_it_names(kafka: DevKafka) -> None:
    """It writes values into them: a codec that is a secret by mistake, and a combination of two."""
    with pytest.raises(ConfigError, match="one of compression_type") as caught:
        connected("KafkaProducer", kafka.bootstrap, compression_type=CANARY)
    assert CANARY not in _said(caught.value)
    with pytest.raises(ConfigError, match="see enable_idempotence, acks") as caught:
        connected("KafkaProducer", kafka.bootstrap, enable_idempotence=True, acks=1, client_id=CANARY)
    assert CANARY not in _said(caught.value)


def test_every_caller_that_passes_options_on_keeps_them_to_itself(kafka: DevKafka, topics: Topics) -> None:
    """The publisher, the topics and the dead letters."""
    wrong = {"sasl_plain_pasword": CANARY}
    for call in (
        lambda: EventPublisher(kafka.bootstrap, **wrong),  # type: ignore[arg-type]
        lambda: describe(kafka.bootstrap, [topics.behaviour], **wrong),  # type: ignore[arg-type]
        lambda: deadletters.count(kafka.bootstrap, topics, **wrong),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert CANARY not in _said(caught.value) and "sasl_plain_pasword" in caught.value.what
        assert "sasl_plain_password" in caught.value.do  # what was meant
