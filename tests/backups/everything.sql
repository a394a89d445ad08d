-- One of everything that a later migration may bring, and what is known to be spelled differently in places.

CREATE TYPE public.mood AS ENUM ('sad', 'ok');
CREATE TYPE public.pair AS (a integer, b text);
CREATE DOMAIN public.percent AS numeric CHECK (VALUE BETWEEN 0 AND 100);
CREATE SCHEMA "Odd Schema";
CREATE TABLE public.kinds (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gone integer,
    f8 double precision, f4 real, n numeric, m money, t timestamptz, d date, tz timetz, i interval, b bytea,
    j jsonb, js json, a text[], u uuid, ip inet, mood public.mood, pair public.pair, percent public.percent,
    bits varbit, r int4range, ts tsvector, c char(5), v varchar(9) DEFAULT 'x',
    doubled integer GENERATED ALWAYS AS (length(v) * 2) STORED
);
ALTER TABLE public.kinds DROP COLUMN gone;
INSERT INTO public.kinds (f8, f4, n, m, t, d, tz, i, b, j, js, a, u, ip, mood, pair, percent, bits, r, ts, c, v)
SELECT 0.1 + k * 1e-17, 'NaN', '1.50', '12.34', '2026-03-29 01:30+00'::timestamptz + k * interval '1 hour', '2026-02-03',
    '04:05:06+03', interval '1 mon -2 days 03:04:05.678', '\xdeadbeef', '{"b": [1, null], "a": "ü"}', '{ "z":1 }',
    ARRAY['a,b', NULL, '"q"', ''], gen_random_uuid(), '10.0.0.1/8', 'ok', ROW(1, 'x"y')::public.pair, 12.5, B'1011', '[1,5)',
    to_tsvector('simple', 'one two'), 'ab', 'vw'
FROM generate_series(1, 40) AS k;
CREATE TABLE "Odd Schema"."A Table; 'x'" (content text, "select" integer, t text);
INSERT INTO "Odd Schema"."A Table; 'x'" VALUES ('x', 1, NULL), ('x', 1, ''), ('x', 1, ''), (NULL, NULL, NULL);
CREATE TABLE public.parted (id integer, note text) PARTITION BY RANGE (id);
CREATE TABLE public.parted_low (note text, id integer);
ALTER TABLE public.parted ATTACH PARTITION public.parted_low FOR VALUES FROM (0) TO (100);
CREATE TABLE public.parted_rest PARTITION OF public.parted DEFAULT;
CREATE UNIQUE INDEX parted_key ON public.parted (id);
ALTER TABLE public.parted ADD PRIMARY KEY (id);
CREATE TABLE public.pointing (id integer REFERENCES public.parted, CHECK (id > 0));
INSERT INTO public.parted VALUES (1, 'low'), (500, 'rest');
INSERT INTO public.pointing VALUES (1);
CREATE VIEW public.seen AS SELECT k.id, k.mood FROM public.kinds AS k WHERE k.mood IN ('sad', 'ok');
CREATE MATERIALIZED VIEW public.kept AS SELECT count(*) AS n FROM public.kinds;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON public.kinds FOR EACH ROW EXECUTE FUNCTION public.touch();
ALTER TABLE public.kinds ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON public.kinds TO zenzefi_app USING (mood = 'ok');
GRANT SELECT (id), UPDATE (v) ON public.kinds TO zenzefi_app;
CREATE STATISTICS public.kinds_ab ON f8, n FROM public.kinds;
CREATE SEQUENCE public.countdown INCREMENT -5 START -5;
SELECT nextval('public.countdown'), nextval('public.countdown');
COMMENT ON TABLE public.kinds IS 'of everything';
