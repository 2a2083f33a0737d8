"""Receiving: the SMTP server protocol.

``protocol.SMTP`` is a drop-in :class:`aiosmtpd.smtp.SMTP`; ``reception.Reception`` makes it Postroad's server;
``serving.Serving`` is what a session serves from, ``listener.Listeners`` the sockets.
"""
