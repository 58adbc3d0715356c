# A service with calls of all four kinds, messages plain bytes. No single quotes in here: a shell reads them.
import time
from concurrent import futures
import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "after-" + request.decode()),))
    if request == b"missing":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    if request == b"late":
        time.sleep(3)
    return b"hello " + request


def down(request, context):
    for i in range(int(request)):
        yield b"message %d" % i


def up(requests, context):
    return b"%d bytes" % sum(map(len, requests))


def both(requests, context):
    for request in requests:
        yield b"heard " + request


service = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mesh.Test", service),))
server.add_insecure_port("0.0.0.0:50051")
server.start()
server.wait_for_termination()
