"""The Python door: what `possm.train` and `load_decoder` give can decode, score, stream, be saved."""

import numpy as np

import possm
import toys


def test_from_recording_to_stream_in_a_few_lines(tmp_path):
    recording = toys.recording(session="api")
    name = next(iter(recording.signals))
    config = possm.TrainConfig(behavior=(name,), decoder=toys.tiny_config(), window_s=1.0, epochs=1)
    result = possm.train([recording], config, tmp_path)
    decoder = possm.load_decoder(result.path)
    assert decoder.hash == result.decoder.hash
    assert decoder.evaluate(recording).scores[0].session == "api"
    live, start_s = result.decoder.live(), float(recording.domain.start_s[0])
    live.restart(start_s)
    times_s, unit, _ = recording.tokens(start_s, start_s + 1.0)
    predictions = live.push(times_s, unit, start_s + 1.0)
    times = np.concatenate([prediction.times_s for prediction in predictions])
    streamed = np.concatenate([prediction.values for prediction in predictions])
    batch = decoder.decode(recording, times_s={name: times})[name]
    np.testing.assert_allclose(streamed, batch.values[: len(streamed)], atol=1e-4)
    decoder.save(tmp_path / "again.safetensors")
    assert possm.load_decoder(tmp_path / "again.safetensors").hash == decoder.hash
