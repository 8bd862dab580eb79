"""Exits with 0 if the process in this container says that it is healthy: `healthcheck.py PORT`."""

import http.client
import sys

TIMEOUT_SECONDS = 4.0


def main(port: int) -> int:
    """Asks /healthz on this machine; prints what went wrong and returns 1 unless it answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        body = response.read(2000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer on port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"{response.status} {body}\n")
    return 0 if response.status == http.client.OK else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
