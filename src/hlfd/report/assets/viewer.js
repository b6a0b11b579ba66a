(() => {
  const section = document.getElementById('viewer'), canvas = section.querySelector('canvas');
  const button = section.querySelector('button'), message = section.querySelector('.message');
  const [caseChoice, modelChoice, viewChoice] = section.querySelectorAll('select');
  const [outlines] = section.querySelectorAll('input');
  const data = JSON.parse(document.getElementById('viewer-data').textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  let viewer = null, loading = Promise.resolve();

  const library = async () => {
    const packed = new Blob([bytes(document.getElementById('viewer-library').textContent.trim())]);
    const text = await new Response(packed.stream().pipeThrough(new DecompressionStream('gzip'))).text();
    const script = document.createElement('script');
    script.textContent = text;
    document.head.append(script);
    return window.niivue;
  };
  // Class 0 is clear; a darker tone for the reference's labels, so that agreement and disagreement show.
  const table = (tone) => ({
    R: data.colours.map((c) => c[0] * tone), G: data.colours.map((c) => c[1] * tone), B: data.colours.map((c) => c[2] * tone),
    A: data.colours.map((_, i) => (i ? 255 : 0)), I: data.colours.map((_, i) => i), labels: data.colours.map((_, i) => `${i}`),
  });
  const show = async () => {
    const niivue = window.niivue, chosen = data.cases[Number(caseChoice.value)];
    const place = viewer.volumes.length && show.last === caseChoice.value ? [...viewer.scene.crosshairPos] : null;
    const volumes = [await niivue.NVImage.loadFromBase64({ base64: chosen.image, name: 'ct.nii.gz', colormap: 'gray', cal_min: 0, cal_max: 255, colorbarVisible: false })];
    const masks = modelChoice.value === '' ? ['reference'] : modelChoice.value === '-' ? [] : ['reference', modelChoice.value];
    for (const name of masks) {
      const mask = await niivue.NVImage.loadFromBase64({ base64: chosen.masks[name], name: `${name}.nii.gz`, opacity: 0.3, colorbarVisible: false });
      mask.setColormapLabel(name === 'reference' && masks.length > 1 ? table(0.4) : table(1));
      volumes.push(mask);
    }
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    for (const volume of volumes) viewer.addVolume(volume);
    viewer.setSliceType(viewer[viewChoice.value]);
    viewer.setAtlasOutline(outlines.checked ? 1 : 0);
    if (place) viewer.scene.crosshairPos = place; else centre(volumes[1]);
    viewer.updateGLVolume();
    show.last = caseChoice.value;
    section.dataset.shown = `${caseChoice.value} ${masks.join('+')}`;
  };
  // To begin with, the slice with most of the target (the last region); if the case has none, of all classes.
  const centre = (mask) => {
    if (!mask) return;
    const [nx, ny, nz] = [mask.hdr.dims[1], mask.hdr.dims[2], mask.hdr.dims[3]];
    const there = mask.img.some((value) => data.target.includes(value)), counts = new Map();
    mask.img.forEach((value, i) => {
      if (there ? !data.target.includes(value) : !value) return;
      const k = Math.floor(i / (nx * ny)), [n, x, y] = counts.get(k) || [0, 0, 0];
      counts.set(k, [n + 1, x + (i % nx), y + (Math.floor(i / nx) % ny)]);
    });
    let best = null;
    for (const [k, [n, x, y]] of counts) if (!best || n > best[0]) best = [n, x / n, y / n, k];
    if (!best) return;
    const mm = mask.hdr.affine.slice(0, 3).map((row) => row[0] * best[1] + row[1] * best[2] + row[2] * best[3] + row[3]);
    viewer.scene.crosshairPos = viewer.mm2frac(mm);
  };
  const open = async () => {
    button.disabled = true;
    const probe = document.createElement('canvas').getContext('webgl2');
    if (!probe || typeof DecompressionStream === 'undefined') {
      message.textContent = 'This browser shows no 3D graphics (WebGL 2); the pictures above hold the same cases.';
      return;
    }
    probe.getExtension('WEBGL_lose_context')?.loseContext();
    const niivue = await library();
    section.classList.add('open');
    viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: false, crosshairWidth: 0.5, crosshairColor: [1, 1, 1, 0.5], isRadiologicalConvention: true, dragAndDropEnabled: false, logLevel: 'error', isColorbar: false, isOrientCube: false });
    await viewer.attachToCanvas(canvas);
    await show();
    for (const control of [caseChoice, modelChoice, viewChoice, outlines]) {
      control.addEventListener('change', () => { loading = loading.then(show); });
    }
  };
  button.addEventListener('click', open);
  if (location.hash === '#open-viewer') open();
})();
