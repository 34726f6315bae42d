"""The gRPC channel: address, retries, load balancing, keepalive, message sizes, TLS."""

from __future__ import annotations

import json

import grpc

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest request and response; a request of 100,000 tables takes about 25 MiB."""

KEEPALIVE_TIME_MS = 330_000
"""Between pings on a quiet connection: above the 300 s that gRPC servers demand by default (they
close connections that ping more often), below the 350 s after which common load balancers drop
idle connections."""

KEEPALIVE_TIMEOUT_MS = 20_000
"""Without an answer to a ping for this long, the connection counts as dead."""

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "shardwright.v1.ShardingPlanService"}],
            # every RPC is a pure question, so asking again is always safe; 5 is gRPC's maximum
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
"""Replicas of the server are alike, so calls go round robin over all addresses of a name."""


def channel_options() -> list[tuple[str, str | int]]:
    """The channel arguments, as gRPC takes them."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ]


def open_channel(target: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """Opens a channel; connecting happens with the first call.

    Args:
        target: `host:port`, or any gRPC name such as `dns:///shardwright.example:50051`.
        credentials: TLS credentials (`grpc.ssl_channel_credentials(...)`); None: plain text.

    Raises:
        ValueError: When the target is empty.
    """
    if not target:
        raise ValueError("target must be host:port of a Shardwright server, got an empty string")
    if credentials is None:
        return grpc.insecure_channel(target, options=channel_options())
    return grpc.secure_channel(target, credentials, options=channel_options())
