"""A session over a real socket, command by command."""

from __future__ import annotations


async def test_message_is_committed_before_its_250_and_then_delivered(tier):
    line = await tier.connect()
    assert await line.reply() == "220 mail.example.com ESMTP Postroad"
    ehlo = (await line.ask("EHLO client.example")).split("\n")
    assert ehlo == [
        "250-mail.example.com",
        "250-8BITMIME",
        "250-BINARYMIME",
        "250-CHUNKING",
        "250-DSN",
        "250-ENHANCEDSTATUSCODES",
        "250-PIPELINING",
        "250-SIZE 37748736",
        "250 SMTPUTF8",
    ]
    assert await line.ask("MAIL FROM:<a@client.example> SIZE=100") == "250 2.1.0 Sender OK"
    assert await line.ask("RCPT TO:<b@example.com>") == "250 2.1.5 Recipient OK"
    assert await line.ask("DATA") == "354 End data with <CR><LF>.<CR><LF>"
    await line.send(b"From: a@client.example\r\nMessage-ID: <m1@client>\r\n\r\n..dot\r\n.\r\n")
    reply = await line.reply()
    ((envelope, content),) = tier.store.messages
    assert reply == f"250 2.0.0 Ok: queued as {envelope.id}"
    assert tier.committed == [envelope.id]
    assert envelope.sender == "a@client.example"
    assert [r.address for r in envelope.recipients] == ["b@example.com"]
    assert content.startswith(b"Received: from client.example ([127.0.0.1])\r\n\tby mail.example.com with ESMTP id ")
    assert b"for <b@example.com>;" in content
    assert content.endswith(b"Message-ID: <m1@client>\r\n\r\n.dot\r\n")
    assert envelope.size == len(content)
    assert '"event":"RECEIVE"' in tier.events()
    assert '"message_id":"<m1@client>"' in tier.events()
    assert await line.ask("QUIT") == "221 2.0.0 Bye"
    assert await line.at_end()
    assert tier.count("postroad_messages_received_total", connector="internet") == 1
