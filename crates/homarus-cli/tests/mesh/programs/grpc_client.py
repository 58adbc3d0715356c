# One call of every kind, and the ways in which one fails. No single quotes in here: a shell reads them.
import os
import queue
import grpc

LIMIT = 20
channel = grpc.insecure_channel(os.environ["SERVER"] + ":50051")
unary = channel.unary_unary("/mesh.Test/Unary")


def trailer(call):
    return dict(call.trailing_metadata())["x-trailer"]


answer, call = unary.with_call(b"you", timeout=LIMIT)
print("unary: %s, %s, trailer %s" % (answer.decode(), call.code().name, trailer(call)))

for name, method, limit in [("missing", unary, LIMIT), ("unknown", channel.unary_unary("/mesh.Test/None"), LIMIT), ("late", unary, 0.5)]:
    try:
        method(name.encode(), timeout=limit)
    except grpc.RpcError as error:
        more = ", %s, trailer %s" % (error.details(), trailer(error)) if name == "missing" else ""
        print("%s: %s%s" % (name, error.code().name, more))

print("down: %d messages" % len(list(channel.unary_stream("/mesh.Test/Down")(b"500", timeout=LIMIT))))
print("up: %s" % channel.stream_unary("/mesh.Test/Up")((b"x" * 10000 for _ in range(100)), timeout=LIMIT).decode())

# Each message is only sent once the one before was answered.
turns = queue.Queue()
turns.put(b"0")
heard = 0
for message in channel.stream_stream("/mesh.Test/Both")(iter(turns.get, None), timeout=LIMIT):
    assert message == b"heard %d" % heard
    heard += 1
    turns.put(b"%d" % heard if heard < 20 else None)
print("both: %d turns" % heard)
