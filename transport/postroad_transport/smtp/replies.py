"""The fixed replies of the receiving side, as they go on the wire (RFC 5321 section 4.2, RFC 3463)."""

from __future__ import annotations

from postroad_transport.policy.reply import Reply


def _wire(code: int, enhanced: str, text: str) -> bytes:
    return Reply(code, enhanced, text).encode()


OK = _wire(250, "2.0.0", "OK")
SENDER_OK = _wire(250, "2.1.0", "Sender OK")
RECIPIENT_OK = _wire(250, "2.1.5", "Recipient OK")
BYE = _wire(221, "2.0.0", "Bye")
HELP = _wire(214, "2.0.0", "Commands: HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS AUTH QUIT")
CANNOT_VERIFY = _wire(252, "2.5.2", "Cannot VRFY user, but will accept message and attempt delivery")
NOT_EXPANDED = _wire(502, "5.5.1", "EXPN not implemented")
START_DATA = b"354 End data with <CR><LF>.<CR><LF>\r\n"
READY_FOR_TLS = _wire(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED = _wire(235, "2.7.0", "Authentication successful")

NO_CONNECTOR = _wire(554, "5.7.1", "No mail is taken from your address here")
TOO_MANY_CONNECTIONS = _wire(421, "4.3.2", "Too many connections, try again later")
TOO_MANY_FROM_SOURCE = _wire(421, "4.7.0", "Too many connections from your address")
TOO_MANY_ERRORS = _wire(421, "4.7.0", "Too many errors")
TOO_MANY_MESSAGES = _wire(421, "4.7.0", "Too many messages on this connection")
TOO_MANY_LOGINS = _wire(421, "4.7.0", "Too many failed authentication attempts")
BANNED = _wire(421, "4.7.0", "Too many failed logins from your address, try again later")
TIMED_OUT = _wire(421, "4.4.2", "Timed out waiting for the client")
SHUTTING_DOWN = _wire(421, "4.3.2", "Service shutting down")

LINE_TOO_LONG = _wire(500, "5.5.2", "Line too long")
BARE_LINE_END = _wire(500, "5.5.2", "Bare <CR> or <LF> in a command; lines end with <CR><LF>")
UNRECOGNIZED = _wire(500, "5.5.1", "Command not recognized")
NO_ARGUMENT = _wire(501, "5.5.4", "This command takes no argument")
BAD_HELLO = _wire(501, "5.5.4", "A domain name or an address literal is needed")
MAIL_SYNTAX = _wire(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX = _wire(501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")
BDAT_SYNTAX = _wire(501, "5.5.4", "Syntax: BDAT octets [LAST]")
AUTH_SYNTAX = _wire(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
EXPS_SYNTAX = _wire(501, "5.5.4", "Syntax: X-EXPS mechanism [initial-response]")
VRFY_SYNTAX = _wire(501, "5.5.4", "Syntax: VRFY address")
NON_ASCII_ADDRESS = _wire(553, "5.6.7", "A non-ASCII address needs SMTPUTF8")
HELLO_FIRST = _wire(503, "5.5.1", "Send EHLO or HELO first")
EHLO_FIRST = _wire(503, "5.5.1", "Send EHLO first")
NESTED_MAIL = _wire(503, "5.5.1", "A transaction is under way; send RSET first")
MAIL_FIRST = _wire(503, "5.5.1", "Send MAIL first")
RCPT_FIRST = _wire(503, "5.5.1", "Send RCPT first")
NO_VALID_RECIPIENTS = _wire(554, "5.5.1", "No valid recipients")
CHUNKS_STARTED = _wire(503, "5.5.1", "A message sent with BDAT is under way")
BINARY_NEEDS_BDAT = _wire(503, "5.5.1", "BODY=BINARYMIME needs BDAT")
ALREADY_TLS = _wire(503, "5.5.1", "TLS is on already")
ALREADY_AUTHENTICATED = _wire(503, "5.5.1", "Authenticated already")
NOT_IN_TRANSACTION = _wire(503, "5.5.1", "Not permitted during a mail transaction")
UNKNOWN_SERVER = _wire(421, "4.7.5", "Your certificate is none of this organisation's servers'")
TLS_NOT_OFFERED = _wire(502, "5.5.1", "STARTTLS is not offered")
AUTH_NOT_OFFERED = _wire(502, "5.5.1", "AUTH is not offered")
BDAT_NOT_OFFERED = _wire(502, "5.5.1", "BDAT is not offered")
AUTH_UNSUCCESSFUL = _wire(535, "5.7.3", "Authentication unsuccessful")
ACCOUNT_CLOSED = _wire(454, "4.7.0", "Too many failed logins to this account, try again later")
AUTH_UNAVAILABLE = _wire(454, "4.7.0", "Temporary authentication failure")
AUTH_LINE_TOO_LONG = _wire(500, "5.5.6", "Authentication exchange line is too long")

TOO_BIG = _wire(552, "5.3.4", "Message size exceeds the maximum")
DATA_LINE_TOO_LONG = _wire(500, "5.6.0", "Line too long in message")
DATA_BARE_LINE_END = _wire(554, "5.6.0", "Bare <CR> or <LF> in message; lines end with <CR><LF>")
EXCH50_SYNTAX = _wire(501, "5.5.4", "Syntax: XEXCH50 octets recipients")
SEND_EXCH50 = b"354 Send binary data\r\n"
EXCH50_OK = _wire(250, "2.0.0", "XEXCH50 OK")
END_IN_DOUBT = _wire(421, "4.7.0", "Closing the connection, for the end of the message is in doubt")
NO_ROOM = _wire(452, "4.3.1", "Insufficient system storage")
LOCAL_PROBLEM = _wire(451, "4.3.0", "Local problem, try again later")
