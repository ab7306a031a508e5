-- Statements of store/prices.py: versions of tariff, carbon intensity and PUE. Few rows; read whole.

-- name: tariffs
SELECT site, valid_from, currency, price_per_kwh, recorded FROM tariff ORDER BY site, valid_from

-- name: put_tariff
INSERT INTO tariff (site, valid_from, currency, price_per_kwh)
VALUES (%(site)s, %(valid_from)s, %(currency)s, %(price_per_kwh)s)
ON CONFLICT (site, valid_from) DO UPDATE SET
    currency = EXCLUDED.currency, price_per_kwh = EXCLUDED.price_per_kwh, recorded = now()
RETURNING site, valid_from, currency, price_per_kwh, recorded

-- name: carbons
SELECT site, valid_from, grams_per_kwh, source, recorded FROM carbon ORDER BY site, valid_from

-- name: put_carbon
INSERT INTO carbon (site, valid_from, grams_per_kwh, source)
VALUES (%(site)s, %(valid_from)s, %(grams_per_kwh)s, %(source)s)
ON CONFLICT (site, valid_from) DO UPDATE SET
    grams_per_kwh = EXCLUDED.grams_per_kwh, source = EXCLUDED.source, recorded = now()
RETURNING site, valid_from, grams_per_kwh, source, recorded

-- name: pues
SELECT site, valid_from, pue, recorded FROM pue ORDER BY site, valid_from

-- name: put_pue
INSERT INTO pue (site, valid_from, pue)
VALUES (%(site)s, %(valid_from)s, %(pue)s)
ON CONFLICT (site, valid_from) DO UPDATE SET pue = EXCLUDED.pue, recorded = now()
RETURNING site, valid_from, pue, recorded
