"""The metrics of processes, requests, stores and jobs, once, with all that their labels may say.

Those of the business are in zenzefi.infra.business_instruments; what jobs find out about the state of things, in
zenzefi.infra.state_instruments. All are in one registry.

Whoever measures imports these modules and counts; nothing is handed through contexts, for a process has one set of
metrics as it has one log. What needs a look (pool sizes, memory) is looked at each second by Context's samplers.
"""

import platform
from http import HTTPStatus
from typing import Final

import zenzefi
from zenzefi.infra.breaker import BreakerState
from zenzefi.infra.metrics import Label, Registry
from zenzefi.jobs import Job, Queue

REGISTRY: Final = Registry()

# From a cache hit to the longest time that an upstream is given by default.
_REQUEST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
# Redis has 50 ms to answer.
_REDIS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)
# A connection of the pool is waited for 3 s at most.
_ACQUIRE_S: Final = (0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0)
# From a sweep that finds nothing to a backup that takes the night.
_JOB_S: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)
_WAIT_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
_LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)

CLIENT_CLOSED: Final = 499  # nginx's number for a client that went away

METHOD: Final = Label("method", ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# The application declares its routes' templates when it is made; a request of no route has none.
ROUTE: Final = Label("route", fallback="unmatched")
CODE: Final = Label("code", {*(status.value for status in HTTPStatus), CLIENT_CLOSED})
LIMIT_CLASS: Final = Label("class", ("auth", "api", "proxy"))
JOB_NAME: Final = Label("name", (job.value for job in Job))
QUEUE: Final = Label("queue", (queue.value for queue in Queue))

BUILD_INFO: Final = REGISTRY.gauge(
    "zenzefi_build_info",
    "1, labelled by the version of the program and of Python",
    Label("version", (zenzefi.__version__,)),
    Label("python", (platform.python_version(),)),
)

PROCESS_CPU: Final = REGISTRY.counter(
    "process_cpu_seconds_total", "User and system CPU time spent in seconds", per_process=True
)
PROCESS_MEMORY: Final = REGISTRY.gauge("process_resident_memory_bytes", "Resident memory size in bytes")
PROCESS_FDS: Final = REGISTRY.gauge("process_open_fds", "Number of open file descriptors")
PROCESS_MAX_FDS: Final = REGISTRY.gauge("process_max_fds", "Maximum number of open file descriptors")
PROCESS_START: Final = REGISTRY.gauge(
    "process_start_time_seconds", "Start time of the process since unix epoch in seconds"
)
SAMPLED_AT: Final = REGISTRY.gauge(
    "zenzefi_process_sampled_timestamp_seconds",
    "When the process last took its gauges, each second; an older time says that it hangs",
)
LOOP_LAG: Final = REGISTRY.histogram(
    "zenzefi_event_loop_lag_seconds", "How late the event loop woke up, by ten looks a second", bounds=_LAG_S
)

HTTP_REQUESTS: Final = REGISTRY.counter(
    "zenzefi_http_requests_total", "Requests that were answered, or left by their client (499)", METHOD, ROUTE, CODE
)
HTTP_DURATION: Final = REGISTRY.histogram(
    "zenzefi_http_request_duration_seconds",
    "From a request's head to the end of its answer, streams included",
    ROUTE,
    bounds=_REQUEST_S,
)

UPSTREAM_REQUESTS: Final = REGISTRY.counter(
    "zenzefi_upstream_requests_total",
    "Requests to the upstream, by the class of its answer or why there was none",
    Label(
        "outcome",
        (
            *("1xx", "2xx", "3xx", "4xx", "5xx"),
            *("upstream_unreachable", "upstream_timeout", "upstream_bad_answer", "upstream_unavailable"),
            *("client_gone", "bad_body", "upload_timeout", "access_ended"),
        ),
    ),
)
UPSTREAM_DURATION: Final = REGISTRY.histogram(
    "zenzefi_upstream_request_duration_seconds",
    "From sending a request to the head of the upstream's answer",
    bounds=_REQUEST_S,
)
UPSTREAM_BREAKER: Final = REGISTRY.gauge(
    "zenzefi_upstream_breaker_state",
    "1 for the state that the circuit breaker before the upstream is in",
    Label("state", (state.value for state in BreakerState)),
)
UPSTREAM_CONNECTIONS: Final = REGISTRY.gauge(
    "zenzefi_upstream_connections_in_use", "Connections to the upstream that carry a request"
)

TOKEN_CHECKS: Final = REGISTRY.counter(
    "zenzefi_token_checks_total",
    "Access tokens that were looked at, by what they were found to be",
    Label("outcome", ("usable", "unusable", "malformed", "unknown")),
)
DEVICE_CONFLICTS: Final = REGISTRY.counter(
    "zenzefi_device_conflicts_total", "Requests that were refused because another device holds the token"
)
OPEN_STREAMS: Final = REGISTRY.gauge("zenzefi_open_streams", "Proxied requests that are on their way")
METERING_FLUSHES: Final = REGISTRY.counter(
    "zenzefi_metering_flushes_total",
    "Batches of usage that were sent to the database, by what came of it",
    Label("outcome", ("stored", "unavailable", "refused")),
)
METERING_BACKLOG: Final = REGISTRY.gauge(
    "zenzefi_metering_backlog_requests", "Requests that are counted and not stored yet"
)

RATE_LIMIT_DECISIONS: Final = REGISTRY.counter(
    "zenzefi_ratelimit_decisions_total",
    "Requests that were charged to a rate limit",
    LIMIT_CLASS,
    Label("outcome", ("admitted", "rejected", "unknown")),
)
RATE_LIMIT_DEGRADED: Final = REGISTRY.gauge(
    "zenzefi_ratelimit_degraded", "1 while a class counts by itself because Redis is away", LIMIT_CLASS
)
RATE_LIMIT_DEGRADED_TIME: Final = REGISTRY.counter(
    "zenzefi_ratelimit_degraded_seconds_total",
    "For how long a class counted by itself because Redis was away, summed over the processes",
    LIMIT_CLASS,
)

REDIS_CALLS: Final = REGISTRY.counter(
    "zenzefi_redis_calls_total",
    "Calls of Redis: answered, failed, or not tried because the circuit breaker is open",
    Label("outcome", ("answered", "failed", "not_tried")),
)
REDIS_DURATION: Final = REGISTRY.histogram(
    "zenzefi_redis_exchange_duration_seconds", "From sending a batch of calls to its last answer", bounds=_REDIS_S
)

DB_CONNECTIONS: Final = REGISTRY.gauge(
    "zenzefi_db_pool_connections", "Connections of the database pool", Label("state", ("idle", "in_use"))
)
DB_MAX_CONNECTIONS: Final = REGISTRY.gauge(
    "zenzefi_db_pool_max_connections", "How many connections the database pool may have"
)

DB_ACQUIRES: Final = REGISTRY.counter(
    "zenzefi_db_acquires_total",
    "Connections asked of the database pool: lent, or none in time; and those that broke while they were lent",
    Label("outcome", ("lent", "unavailable", "broken")),
)
DB_ACQUIRE_DURATION: Final = REGISTRY.histogram(
    "zenzefi_db_acquire_duration_seconds",
    "How long a connection of the database pool was waited for",
    bounds=_ACQUIRE_S,
)

JOBS: Final = REGISTRY.counter(
    "zenzefi_jobs_total",
    "Runs of jobs, by what came of them; a deferred one is tried again",
    JOB_NAME,
    Label("result", ("done", "deferred", "failed", "cancelled")),
)
JOB_DURATION: Final = REGISTRY.histogram(
    "zenzefi_job_duration_seconds", "How long a run of a job took", JOB_NAME, bounds=_JOB_S
)
JOB_WAIT: Final = REGISTRY.histogram(
    "zenzefi_job_wait_seconds", "From when a job was due until a worker began it", JOB_NAME, bounds=_WAIT_S
)
JOB_LAST_SUCCESS: Final = REGISTRY.gauge(
    "zenzefi_job_last_success_timestamp_seconds", "When a job was last done by any worker; 0 is never", JOB_NAME
)
JOB_PERIOD: Final = REGISTRY.gauge(
    "zenzefi_job_period_seconds", "How long after a run the schedule has the next one of a job", JOB_NAME
)
QUEUE_JOBS: Final = REGISTRY.gauge("zenzefi_queue_jobs", "Jobs that are due and run by no worker", QUEUE)
QUEUE_OLDEST_AGE: Final = REGISTRY.gauge(
    "zenzefi_queue_oldest_age_seconds", "For how long the oldest waiting job has been due; 0 if none waits", QUEUE
)
QUEUE_WORKERS: Final = REGISTRY.gauge("zenzefi_queue_workers", "Workers with a recent heartbeat", QUEUE)
