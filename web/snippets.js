// The same requests from code, for the address that the page came from. The key itself is never put in.

/** `{ curl, javascript, python }` for a server at `origin`. */
export function snippets(origin, needsKey) {
  const base = origin.replace(/\/$/, '');
  const socket = base.replace(/^http/, 'ws');
  const curlKey = needsKey ? ' \\\n  -H "Authorization: Bearer $WAXWING_KEY"' : '';
  const protocols = needsKey ? ", ['waxwing.v1', 'key.' + base64url(KEY)]" : ", ['waxwing.v1']";
  return {
    curl: `# a file: any of wav, flac, ogg, mp3, m4a, webm
curl ${base}/v1/audio/transcriptions${curlKey} \\
  -F file=@speech.wav -F model=whisper-1

# with times, as subtitles
curl ${base}/v1/audio/transcriptions${curlKey} \\
  -F file=@speech.wav -F model=whisper-1 -F response_format=srt
`,
    javascript: `// live: 16-bit samples in, words out while you speak
const socket = new WebSocket(
  '${socket}/v1/stream?encoding=s16le&sample_rate=16000'${protocols});
socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === 'ready') socket.send(samples); // an Int16Array; send as many as you like
  if (event.type === 'partial') console.log('…', event.text);
  if (event.type === 'final') console.log(event.start, event.text);
};
// at the end: the last words come before "done"
socket.send(JSON.stringify({ type: 'stop' }));
`,
    python: `# pip install openai
from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key=${needsKey ? 'os.environ["WAXWING_KEY"]' : '"none"'})
with open("speech.wav", "rb") as audio:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=audio,
        response_format="verbose_json", timestamp_granularities=["word"])
print(answer.text)
`.replace('from openai', needsKey ? 'import os\nfrom openai' : 'from openai'),
  };
}
