"""Spikes to a decoder and predictions back over UDP, with nothing but the standard library.

    possm stream decoder.safetensors --source udp:127.0.0.1:9000 --sink udp:127.0.0.1:9001
    python examples/link_udp.py

The layout of the datagrams is written down in docs/links.md.
"""

import random
import socket
import struct
import time

UNITS, RATE_HZ, CHUNK_S = 40, 20.0, 0.05

to_decoder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
predictions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
predictions.bind(("127.0.0.1", 9001))
predictions.setblocking(False)

sender, until_s = random.getrandbits(32), time.monotonic()
for number in range(200):  # ten seconds
    start_s, until_s = until_s, until_s + CHUNK_S
    spikes = sorted(
        (random.uniform(start_s, until_s), unit)
        for unit in range(UNITS)
        for _ in range(random.random() < RATE_HZ * CHUNK_S)
    )
    time.sleep(max(0.0, until_s - time.monotonic()))
    head = struct.pack("<4sBBHIQ", b"PSSM", 1, 1, 2 if number == 0 else 0, sender, number)
    times = struct.pack(f"<{len(spikes)}d", *(time_s for time_s, _ in spikes))
    units = struct.pack(f"<{len(spikes)}i", *(unit for _, unit in spikes))
    packet = head + struct.pack("<ddI", start_s, until_s, len(spikes)) + times + units
    to_decoder.sendto(packet, ("127.0.0.1", 9000))
    time.sleep(0.01)
    try:
        answer = predictions.recv(65507)
    except BlockingIOError:
        continue
    facts = struct.unpack_from("<ddQIQQdQQHd32sHHH", answer, 20)
    rows, width, length = facts[-3:]
    name = answer[-length - 8 * rows - 4 * rows * width :][:length].decode()
    values = struct.unpack(f"<{rows * width}f", answer[-4 * rows * width :])
    print(f"chunk {facts[2]:4d}  {name}", *(f"{value:8.3f}" for value in values))
