"""The time, for a box that boots without a clock: python3 clock.py HOST:PORT FLOOR

Asks the HTTPS door of the service and prints the time in seconds since 1970, for `date -s @...`. The file with the certificate
authority comes from SSL_CERT_FILE. FLOOR is the time at which this firmware was built: no time before it is true.
"""

import email.utils
import http.client
import os
import ssl
import sys
import time

NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME


def ask(host, port):
    # Authority and name are verified as ever. Only the dates are not: we do not know which day it is.
    trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    trust.verify_flags |= NO_CHECK_TIME
    asked = time.monotonic()
    connection = http.client.HTTPSConnection(host, port, context=trust, timeout=10)
    connection.request("HEAD", "/")  # whatever it answers, it has a Date (RFC 9110 section 6.6.1)
    date = connection.getresponse().getheader("Date")
    took = time.monotonic() - asked  # measured with a clock that need not be right
    certificate = connection.sock.getpeercert()
    connection.close()
    if not date or took > 5:
        raise OSError("no date, or one that took too long")
    return email.utils.parsedate_to_datetime(date).timestamp() + took / 2, certificate


def main():
    address, floor = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    now, certificate = ask(host, int(port))
    if now < int(floor):
        sys.exit("the service tells a time before this firmware was built")
    # Now that the day is known: was the certificate valid on it?
    begin, end = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    if not begin <= now <= end:
        sys.exit("the service shows a certificate that was not valid at the time it tells")
    print(int(now))


main()
