"""A camera with GStreamer's RTSP server, run by the system's Python, which has its bindings.

/usr/bin/python3 tests/rtsp_camera.py PORT [--codec mjpeg|h265] [--size 320x240] [--gop 300] [--user name:password]

Serves rtsp://127.0.0.1:PORT/cam, a white ball on black, and prints "ready". SIGSTOP makes it hang.
Decodes what is pushed to rtsp://127.0.0.1:PORT/push and prints "frame WIDTH HEIGHT" for each picture.
"""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": "openh264enc bitrate=1000000 complexity=low gop-size={gop} ! h264parse ! "
    "{harm} rtph264pay name=pay0 config-interval=1",
    "h265": "x265enc bitrate=500 speed-preset=ultrafast tune=zerolatency key-int-max={gop} ! h265parse ! "
    "{harm} rtph265pay name=pay0 config-interval=1",
    "mjpeg": "jpegenc quality=70 ! {harm} rtpjpegpay name=pay0",
}


def show_pushed(factory, media):
    """Print the size of every pushed picture."""
    sink = media.get_element().get_by_name("shown")

    def sample(sink):
        caps = sink.emit("pull-sample").get_caps().get_structure(0)
        print("frame", caps.get_value("width"), caps.get_value("height"), flush=True)
        return Gst.FlowReturn.OK

    sink.connect("new-sample", sample)


def go_blind(factory, media):
    """Stop sending pictures after a while, like a camera whose sensor hangs."""
    eye = media.get_element().get_by_name("eye")
    GLib.timeout_add_seconds(options.blind_after, lambda: eye.set_property("drop", True))


parser = argparse.ArgumentParser()
parser.add_argument("port")
parser.add_argument("--codec", choices=ENCODERS, default="h264")
parser.add_argument("--size", default="320x240")
parser.add_argument("--fps", type=int, default=30)
parser.add_argument("--gop", type=int, default=15, help="pictures between two key frames")
parser.add_argument("--user")
parser.add_argument("--lose", type=float, default=0.0, help="share of pictures to lose")
parser.add_argument("--garble", type=float, default=0.0, help="share of bytes to change")
parser.add_argument("--blind-after", type=int, default=0, help="seconds until only sound is sent; 0: no sound")
options = parser.parse_args()
width, height = options.size.split("x")
harm = f"identity drop-probability={options.lose} !" if options.lose else ""
if options.garble:
    harm += f" breakmydata probability={options.garble} skip=20000 !"  # the first pictures are intact
sound = " audiotestsrc is-live=true ! mulawenc ! rtppcmupay name=pay1" if options.blind_after else ""

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(options.port)
camera = GstRtspServer.RTSPMediaFactory()
encoder = ENCODERS[options.codec].format(harm=harm, gop=options.gop)
camera.set_launch(
    "( videotestsrc is-live=true pattern=ball ! "
    f"video/x-raw,format=I420,width={width},height={height},framerate={options.fps}/1 ! valve name=eye ! "
    f"{encoder}{sound} )"
)
camera.set_shared(True)
if options.blind_after:
    camera.connect("media-configure", go_blind)
server.get_mount_points().add_factory("/cam", camera)
recorder = GstRtspServer.RTSPMediaFactory()
recorder.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
recorder.set_launch(
    "( rtph264depay name=depay0 ! avdec_h264 ! videoconvert ! appsink name=shown emit-signals=true sync=false )"
)
recorder.connect("media-configure", show_pushed)
server.get_mount_points().add_factory("/push", recorder)
if options.user:
    name, _, password = options.user.partition(":")
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", name)
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(name, "media.factory.access", True)
    permissions.add_permission_for_role(name, "media.factory.construct", True)
    camera.set_permissions(permissions)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
