// The microphone: asks for it, runs the AudioWorklet, gives it back. One object is one use.

/** Opens the microphone `deviceId` (or the system's choice) and calls `onChunk({ samples, peak, rms, clipped }, rateHz)`
 *  about 50 times a second. `onLost` is called when the device goes away by itself. Throws what getUserMedia throws;
 *  an insecure page throws a DOMException named `InsecureContext`, a server that no longer gives the worklet one named
 *  `WorkletUnavailable`. */
export async function openMicrophone({ deviceId, onChunk, onLost }) {
  if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
    throw new DOMException('getUserMedia needs https or localhost', 'InsecureContext');
  }
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: {
      deviceId: deviceId ? { ideal: deviceId } : undefined,
      channelCount: { ideal: 1 },
      // Made for calls between people; both remove speech that a recogniser could have used.
      echoCancellation: false,
      noiseSuppression: false,
      autoGainControl: true,
    },
  });
  const [track] = stream.getAudioTracks();
  const context = new AudioContext({ latencyHint: 'interactive' });
  try {
    await context.audioWorklet.addModule(new URL('worklet.js', document.baseURI)).catch(() => {
      throw new DOMException('the worklet could not be loaded', 'WorkletUnavailable');
    });
    await context.resume();
  } catch (error) {
    track.stop();
    await context.close();
    throw error;
  }
  const source = context.createMediaStreamSource(stream);
  const capture = new AudioWorkletNode(context, 'waxwing-capture', { numberOfOutputs: 1 });
  let flushed;
  const whenFlushed = new Promise((resolve) => { flushed = resolve; });
  capture.port.onmessage = ({ data }) => (data.ended ? flushed() : onChunk(data, context.sampleRate));
  source.connect(capture);
  // The worklet writes silence to its output; being connected keeps it running in every browser.
  capture.connect(context.destination);
  // A phone call or a headset change may suspend the context: go on as soon as the system allows it.
  context.onstatechange = () => { if (context.state === 'suspended') context.resume().catch(() => {}); };
  let closing = false;
  track.onended = () => { if (!closing) onLost(); };

  return {
    rateHz: context.sampleRate,
    label: track.label,
    deviceId: track.getSettings().deviceId ?? '',
    /** Hands over the last samples, then releases the device. */
    async close() {
      if (closing) return;
      closing = true;
      capture.port.postMessage('stop');
      // A context that is no longer running never answers.
      await Promise.race([whenFlushed, new Promise((resolve) => { setTimeout(resolve, 300); })]);
      context.onstatechange = null;
      track.stop();
      await context.close();
    },
  };
}

/** The audio inputs that the browser is ready to name; before permission their labels are empty. */
export async function listMicrophones() {
  if (!navigator.mediaDevices?.enumerateDevices) return [];
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === 'audioinput' && device.label !== '');
}
