#!/usr/bin/env bash
# Makes the clips of this folder: half a second of one synthetic voice-like sound in every container that the front end
# reads. Needs ffmpeg (made with Debian's 5.1) and python3. The clips are committed, so tests need neither.
set -euo pipefail
cd "$(dirname "$0")"

python3 make_source.py source.wav
encode() { ffmpeg -hide_banner -loglevel error -y -i source.wav -map_metadata -1 -fflags +bitexact -flags:a +bitexact "$@"; }

encode -c:a flac                                    clip.flac
encode -c:a flac -f ogg                             clip.flac.ogg
encode -c:a libvorbis -q:a 4 -page_duration 100000  clip.vorbis.ogg
encode -c:a libmp3lame -b:a 48k                     clip.mp3
encode -c:a libmp3lame -b:a 64k -ar 44100           clip.44100.mp3
encode -c:a aac -b:a 48k                            clip.m4a
encode -c:a aac -b:a 48k -f adts                    clip.aac
encode -c:a aac -b:a 64k -ar 44100 -ac 2 -movflags +faststart  clip.stereo.m4a
encode -c:a aac -b:a 48k -movflags frag_keyframe+empty_moov+default_base_moof  clip.fragmented.mp4
ffmpeg -hide_banner -loglevel error -y -f lavfi -i color=s=16x16:d=0.5 -i source.wav -map_metadata -1 -fflags +bitexact \
  -flags +bitexact -c:v mpeg4 -c:a aac -b:a 48k -movflags +faststart    clip.video.mp4
encode -c:a libopus -b:a 32k -page_duration 100000  clip.opus
encode -c:a libopus -b:a 48k -ac 2                  clip.stereo.opus
encode -c:a libopus -b:a 96k -ac 6                  clip.six.opus
encode -c:a libopus -b:a 32k                        clip.webm
# A recorder in a browser writes to a pipe: no length, no index.
encode -c:a libopus -b:a 32k -live 1 -f webm pipe:1 | cat > clip.live.webm
encode -c:a libvorbis -q:a 4 -f matroska            clip.vorbis.mka
encode -c:a pcm_s16le -f wav pipe:1 | cat         > clip.piped.wav
encode -c:a adpcm_ima_wav                           clip.adpcm.wav
ls -l
