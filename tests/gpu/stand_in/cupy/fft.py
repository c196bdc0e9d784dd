"""Named by array-api-compat when it is imported; nothing here is used."""

fft = ifft = fftn = ifftn = rfft = irfft = rfftn = irfftn = hfft = ihfft = None
fftfreq = rfftfreq = fftshift = ifftshift = None
