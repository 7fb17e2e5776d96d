-- The rows of the compose file's own database.
insert into orders (customer, sku, quantity, note, taken_by, placed_at) values
    ('Linus', 'rooibos', 1, 'Only in the laptop''s database', 'laptop/seed', '2026-03-02 08:05:00+00'),
    ('Margaret Hamilton', 'assam', 2, '', 'laptop/seed', '2026-03-02 08:20:00+00');
